# The Batch jobs: `python -m services.consolidator` (the default), `python -m services.resampler`,
# `python -m services.fetcher.flat_files`, `python -m migrations`.
#
# Every command is in exec form, so that the job is process 1 and Batch's SIGTERM reaches it: the worker then finishes what
# it has begun and gives back the rest. The code lies where Lambda has it, so that paths in settings are the same.

ARG PYTHON_IMAGE=python:3.13.16-slim-trixie

FROM ${PYTHON_IMAGE} AS packages
RUN python -m venv --without-pip /opt/venv
COPY requirements/image.txt /build/
RUN python -m pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
    --only-binary :all: --require-hashes --no-deps --requirement /build/image.txt \
    && find /opt/venv -type d -name tests -prune -exec rm -rf {} +

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin fiblake
COPY --from=packages /opt/venv /opt/venv
COPY migrations /var/task/migrations
COPY fiblake /var/task/fiblake
COPY shared /var/task/shared
COPY services/__init__.py /var/task/services/
COPY services/consolidator /var/task/services/consolidator
COPY services/fetcher /var/task/services/fetcher
COPY services/resampler /var/task/services/resampler
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
RUN python -m compileall -q /var/task /opt/venv
WORKDIR /var/task
USER fiblake
STOPSIGNAL SIGTERM
CMD ["python", "-m", "services.consolidator"]
