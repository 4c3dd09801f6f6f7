# The images of docker-compose.yml, each with exactly what uv.lock says: `backend` without torch, `worker` with it.

FROM python:3.12-slim AS source
RUN pip install --no-cache-dir uv==0.13.9
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PROJECT_ENVIRONMENT=/opt/av2t UV_PYTHON_DOWNLOADS=never
WORKDIR /src
COPY pyproject.toml uv.lock ./

# The dependencies are layers of their own, before the code, which changes more often.
FROM source AS backend-environment
RUN uv sync --locked --no-dev --extra s3 --no-install-project
COPY . .
RUN uv sync --locked --no-dev --extra s3 --no-editable

FROM source AS worker-environment
RUN uv sync --locked --no-dev --extra model --extra s3 --no-install-project
COPY . .
RUN uv sync --locked --no-dev --extra model --extra s3 --no-editable

FROM python:3.12-slim AS base
RUN useradd --uid 10001 --no-create-home av2t && install --directory --owner av2t --group av2t /data
ENV AV2T_DATA_DIR=/data HOME=/tmp PATH=/opt/av2t/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /data
USER av2t
ENTRYPOINT ["av2t"]

FROM base AS backend
COPY --from=backend-environment /opt/av2t /opt/av2t
EXPOSE 9090
CMD ["backend"]

FROM base AS worker
COPY --from=worker-environment /opt/av2t /opt/av2t
CMD ["worker"]
