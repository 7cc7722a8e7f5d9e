# pushserver as an image: docker build -t pushserver .     (docs/deploying.md, "Containers")
#
# Another base, such as an own mirror's: --build-arg BASE=…; it needs Python 3.11 or newer, and useradd and groupadd of
# Debian.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY . .
RUN python3 -m venv /opt/pushserver \
    && /opt/pushserver/bin/pip install --no-cache-dir . \
    # twistd caches its list of plugins beside them, where the server itself may not write.
    && /opt/pushserver/bin/twistd pushserver --help > /dev/null

FROM ${BASE}
COPY --from=build /opt/pushserver /opt/pushserver
# The group has the same number: what a base has taken already says nothing about whose the files of a volume are.
RUN groupadd --system --gid 10001 pushserver \
    && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/pushserver --create-home pushserver
ENV PATH=/opt/pushserver/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PUSHSERVER_SERVER__LISTEN='["tcp:8080"]' \
    PUSHSERVER_SERVER__STATE_DIR=/var/lib/pushserver \
    PUSHCTL_URL=http://127.0.0.1:8080
# By its number, so that whoever runs it can tell that it is not root.
USER 10001
WORKDIR /var/lib/pushserver
VOLUME /var/lib/pushserver
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
# No pid file: after a kill it would name a process that is somebody else's. Logs go to standard output.
ENTRYPOINT ["twistd", "-n", "--pidfile=", "pushserver"]
