# The core without the training runtime; `--build-arg EXTRAS=tunix` adds it.
FROM python:3.13-slim AS build
ARG EXTRAS=
# Here compiling pays: the image is read-only, and started often.
ENV UV_COMPILE_BYTECODE=1
COPY .ci/environment .ci/install.py /build/.ci/
COPY requirements /build/requirements
RUN /build/.ci/environment /opt/venv $EXTRAS

FROM python:3.13-slim
# For manage.py backup and restore: pg_dump must not be older than the server, and Debian's own may be.
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates postgresql-common \
    && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y \
    && apt-get install --yes --no-install-recommends postgresql-client-18 \
    && rm -rf /var/lib/apt/lists/*
# A volume takes owner and mode from the folder that the image has in its place.
RUN groupadd --gid 10001 tunixrt && useradd --uid 10001 --gid tunixrt --no-create-home --home-dir /var/lib/tunixrt tunixrt \
    && install -d -m 700 -o tunixrt -g tunixrt /var/lib/tunixrt \
        /var/lib/tunixrt/output /var/lib/tunixrt/models /var/lib/tunixrt/data /var/lib/tunixrt/scorers \
        /var/lib/tunixrt/cache /var/lib/tunixrt/static
COPY --from=build /opt/venv /opt/venv
COPY --chown=root:root . /srv/tunixrt
# Of a clone that was made for one account's eyes (umask 077), too.
RUN chmod -R a+rX /srv/tunixrt
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
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["python", "-I", "tunixrt/healthcheck.py"]
CMD ["python", "manage.py", "web"]
