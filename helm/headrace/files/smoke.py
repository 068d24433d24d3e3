"""What `helm test` runs: does each learner live, is it ready, does it answer? One line each, with what to look at."""

import json
import sys
import urllib.error
import urllib.request

PAGES = {"/healthz": "lives", "/readyz": "learns as clicks come", "/metrics": "shows its metrics"}


def ask(address: str, page: str) -> tuple[bool, str]:
    """Whether the page says yes, and what it says."""
    try:
        with urllib.request.urlopen(f"http://{address}{page}", timeout=10) as reply:
            return True, reply.read(200_000).decode()
    except urllib.error.HTTPError as error:
        return False, error.read(2000).decode()
    except OSError as error:
        return False, f"cannot be reached: {error}"


def why(answer: str) -> str:
    """The reasons that /healthz and /readyz give, or the answer itself."""
    try:
        return "; ".join(json.loads(answer)["reasons"]) or answer
    except (ValueError, KeyError, TypeError):
        return answer.strip()


def main(addresses: list[str]) -> int:
    """1 when a learner's page says no."""
    failed = 0
    for address in addresses:
        for page, meaning in PAGES.items():
            good, answer = ask(address, page)
            good = good and (page != "/metrics" or "headrace_build_info" in answer)
            failed += not good
            said = "" if good else f": {why(answer)}\n      -> kubectl logs and docs/runbooks.md say more"
            sys.stdout.write(f"{'ok  ' if good else 'FAIL'}  {address} {meaning} ({page}){said}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
