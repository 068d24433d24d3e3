"""A world of simulated processes on one thread: time, scheduling, sleep, death and sleep-walking, all from one seed.

A thread of the product is a greenlet here. It runs until it waits (for the clock, a future, an answer from outside);
what runs next, and when, is decided by the world's random numbers alone: the same seed gives the same run.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from greenlet import getcurrent, greenlet

WALL_START = 1_700_000_000.0
LOOKS_MAX = 10_000
"""How often in a row a thread may look at the clock without letting time pass: more, and it spins for ever."""


class Killed(BaseException):
    """This process was killed. No Exception: nothing in the product may catch it."""


class Process:
    """What dies and sleeps as one. `skew`: by how much its wall clock is wrong, in seconds."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.asleep_until = 0.0
        self.skew = 0.0
        self.doom: int | None = None
        """It dies at this many more boundaries (before or after an effect outside); None: not by itself."""
        self.tasks: set[Task] = set()
        self.children: list[Process] = []
        self.died: Callable[[], None] = lambda: None
        """Called once, when it is dead."""

    def boundary(self) -> None:
        """Called on either side of every effect on the outside. Raises Killed when it dies here."""
        if self.doom is not None:
            self.doom -= 1
            if self.doom <= 0:
                self.world.note(self, "DIES HERE")
                self.world.kill(self)
        if not self.alive:
            raise Killed

    def sleep_until(self, moment: float) -> None:
        """As SIGSTOP, then SIGCONT at `moment`: it and its children do nothing until then."""
        self.asleep_until = max(self.asleep_until, moment)
        for child in self.children:
            child.sleep_until(moment)


class Task:
    """A thread of a process."""

    def __init__(self, process: Process, run: Callable[[], None], hub: greenlet) -> None:
        self.process = process
        self.thread = greenlet(run, hub)
        self.turn = 0
        """Which of its waits this is: an alarm set for an earlier one is void."""


class World:
    """Runs tasks in the order of their alarms. `end`: no alarm after this moment rings."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.trace: list[str] | None = [] if tracing else None
        self._hub = getcurrent()
        self._alarms: list[tuple[float, int, Task | None, int, Callable[[], None] | None]] = []
        self._order = 0
        self._tasks: dict[greenlet, Task] = {}
        self._dying: list[Process] = []
        self._looks = 0

    def look(self) -> float:
        """The time, for a thread that asks. Raises RuntimeError when it does nothing but ask."""
        self._looks += 1
        if self._looks > LOOKS_MAX:
            raise RuntimeError(f"it looks at the clock {LOOKS_MAX} times and never waits")
        return self.now

    def note(self, process: Process | None, text: str) -> None:
        """A line of the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.now:9.3f}  {process.name if process else '-':<12} {text}")

    def spawn(self, process: Process, run: Callable[[], None]) -> None:
        """Begin a thread of `process`, soon."""
        task = Task(process, lambda: self._run(task, run), self._hub)
        self._tasks[task.thread] = task
        process.tasks.add(task)
        self._set_alarm(self.now + self.random.random() * 0.001, task)

    def at(self, moment: float, act: Callable[[], None]) -> None:
        """Something happens in the world at `moment`, whatever the processes do; `act` must not wait."""
        self._order += 1
        heapq.heappush(self._alarms, (moment, self._order, None, 0, act))

    def sleep(self, seconds: float) -> None:
        """The current thread waits."""
        task = self._tasks[getcurrent()]
        self._set_alarm(self.now + max(seconds, 0.0001), task)
        self._switch(task)

    def park(self, seconds: float | None = None) -> None:
        """The current thread waits until `wake`, at most so many seconds."""
        task = self._tasks[getcurrent()]
        if seconds is not None:
            self._set_alarm(self.now + seconds, task)
        self._switch(task)

    def current(self) -> Task:
        """The thread that runs."""
        return self._tasks[getcurrent()]

    def wake(self, task: Task) -> None:
        """End a `park`."""
        self._set_alarm(self.now + self.random.random() * 0.0005, task)

    def kill(self, process: Process) -> None:
        """End a process without a word. Its threads unwind before anything else happens; none reaches the outside."""
        if process.alive:
            process.alive = False
            self._dying.append(process)
            process.died()

    def run(self, until: Callable[[], bool], end: float) -> bool:
        """Let time pass until `until()`; False when it does not come true before `end`."""
        while not until():
            self._bury()
            if not self._alarms or self._alarms[0][0] > end:
                return False
            moment, _, task, turn, act = heapq.heappop(self._alarms)
            self.now = max(self.now, moment)
            if act is not None:
                act()
            elif task is not None and task.turn == turn and not task.thread.dead:
                self._resume(task)
        self._bury()
        return True

    def close(self) -> None:
        """End every thread that is left."""
        for task in list(self._tasks.values()):
            self.kill(task.process)
        self._bury()

    def _resume(self, task: Task) -> None:
        if task.process.asleep_until > self.now:
            self._set_alarm(task.process.asleep_until + self.random.random() * 0.01, task)
            return
        task.turn += 1
        task.thread.switch()

    def _switch(self, task: Task) -> None:
        self._looks = 0
        self._hub.switch()
        if not task.process.alive:
            raise Killed

    def _set_alarm(self, moment: float, task: Task) -> None:
        self._order += 1
        heapq.heappush(self._alarms, (moment, self._order, task, task.turn, None))

    def _run(self, task: Task, run: Callable[[], None]) -> None:
        try:
            if task.process.alive:
                run()
        except Killed:
            pass
        finally:
            task.process.tasks.discard(task)
            self._tasks.pop(task.thread, None)

    def _bury(self) -> None:
        while self._dying:
            process = self._dying.pop()
            for task in list(process.tasks):
                task.turn += 1
                if task.thread:  # it has begun and not ended
                    task.thread.throw(Killed)
                else:
                    process.tasks.discard(task)
                    self._tasks.pop(task.thread, None)


class Bell:
    """One thread waits for it; it may wake up for nothing."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiter: Task | None = None

    def wait(self) -> None:
        """Until it is rung."""
        self._waiter = self._world.current()
        self._world.park()

    def ring(self) -> None:
        """Wake whoever waits."""
        if self._waiter is not None:
            self._world.wake(self._waiter)
            self._waiter = None


class SimulatedFuture(Future[Any]):
    """A future that lets others run while it is waited for."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def result(self, timeout: float | None = None) -> Any:
        while not self.done():
            task = self._world.current()
            self.add_done_callback(lambda _, task=task: self._world.wake(task))  # type: ignore[misc]
            self._world.park()
        return super().result(0)


class SimulatedExecutor:
    """An `Executor` whose threads belong to a process."""

    def __init__(self, process: Process, threads: int) -> None:
        self._process = process
        self._threads = threads
        self._running = 0
        self._jobs: deque[tuple[SimulatedFuture, Callable[..., Any], tuple[Any, ...]]] = deque()
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> SimulatedFuture:
        future = SimulatedFuture(self._process.world)
        self._jobs.append((future, fn, args))
        if self._running < self._threads:
            self._running += 1
            self._process.world.spawn(self._process, self._work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as concurrent.futures has it
        if cancel_futures:
            self._jobs.clear()
        while wait and self._running:
            self._process.world.sleep(0.01)

    def _work(self) -> None:
        try:
            while self._jobs:
                future, fn, args = self._jobs.popleft()
                try:
                    future.set_result(fn(*args))
                except Exception as error:  # noqa: BLE001 - a future holds whatever its job raised
                    future.set_exception(error)
        finally:
            self._running -= 1


class SimulatedLookout:
    """A `Lookout` of a process."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._raised = False

    def set(self) -> None:
        self._raised = True

    def is_set(self) -> bool:
        return self._raised

    def wait(self, timeout: float | None = None) -> bool:
        end = self._world.now + (timeout if timeout is not None else 1e9)
        while not self._raised and self._world.now < end:
            self._world.sleep(min(1.0, end - self._world.now))
        return self._raised


class ProcessClock:
    """A `Clock` as a process sees it: `monotonic` runs on while it sleeps, `now` may be wrong."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def now(self) -> float:
        return WALL_START + self._process.world.now + self._process.skew

    def monotonic(self) -> float:
        return self._process.world.look()

    def sleep(self, seconds: float) -> None:
        self._process.world.sleep(seconds)
