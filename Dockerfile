# One member. The base image is any Debian with Python 3.11: python3, python3-venv, ca-certificates.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}

COPY pyproject.toml README.md LICENSE /usr/src/esker/
COPY raft /usr/src/esker/raft
COPY mvcc /usr/src/esker/mvcc
COPY node /usr/src/esker/node
RUN python3 -m venv /opt/esker \
    && /opt/esker/bin/pip install --no-cache-dir /usr/src/esker \
    && rm -rf /usr/src/esker

RUN groupadd --gid 2379 esker \
    && useradd --uid 2379 --gid esker --home-dir /var/lib/esker --create-home esker
USER esker
WORKDIR /var/lib/esker
ENV PATH=/opt/esker/bin:$PATH \
    ETCD_DATA_DIR=/var/lib/esker/data \
    ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379 \
    ETCD_ADVERTISE_CLIENT_URLS=http://127.0.0.1:2379 \
    ETCD_LISTEN_PEER_URLS=http://0.0.0.0:2380
VOLUME /var/lib/esker
EXPOSE 2379 2380

HEALTHCHECK --interval=5s --timeout=5s --start-period=15s --retries=3 \
    CMD ["eskerctl", "--endpoints", "127.0.0.1:2379", "endpoint", "health"]
ENTRYPOINT ["esker"]
