# The core without the training runtime; `--build-arg EXTRAS=tunix` adds it.
FROM python:3.13-slim AS build
ARG EXTRAS=
# Here compiling pays: the image is read-only, and started often.
ENV UV_COMPILE_BYTECODE=1
COPY .ci/environment .ci/install.py /build/.ci/
COPY requirements /build/requirements
RUN /build/.ci/environment /opt/venv $EXTRAS

FROM python:3.13-slim
RUN groupadd --gid 10001 tunixrt && useradd --uid 10001 --gid tunixrt --no-create-home --home-dir /var/lib/tunixrt tunixrt \
    && mkdir -p /var/lib/tunixrt/output /var/lib/tunixrt/static && chown -R tunixrt:tunixrt /var/lib/tunixrt
COPY --from=build /opt/venv /opt/venv
COPY --chown=root:root . /srv/tunixrt
WORKDIR /srv/tunixrt
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/lib/tunixrt \
    TUNIXRT_VAR_DIR=/var/lib/tunixrt \
    TUNIXRT_LOCAL_MODE=false \
    TUNIXRT_BIND=0.0.0.0:8000
USER tunixrt
# The key signs nothing here: it only lets the settings load while the image is built.
RUN SECRET_KEY=build python manage.py collectstatic --noinput
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["python", "-c", "\
import os; from urllib.request import Request, urlopen; \
host = os.environ.get('ALLOWED_HOSTS', 'localhost').split(',')[0]; \
urlopen(Request('http://127.0.0.1:8000/healthz', headers={'Host': host}), timeout=4)"]
CMD ["python", "manage.py", "web"]
