# syntax=docker/dockerfile:1
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/fibrin
COPY requirements.lock .
RUN /opt/fibrin/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY playbooks playbooks
COPY proxy proxy
COPY control control
COPY agent agent
COPY simulations simulations
COPY fibrin fibrin
RUN /opt/fibrin/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 1337 fibrin
COPY --from=build /opt/fibrin /opt/fibrin
ENV PATH=/opt/fibrin/bin:$PATH \
    FIBRIN_STATE_DIR=/home/fibrin/state
USER fibrin
WORKDIR /home/fibrin
ENTRYPOINT ["fibrin"]
CMD ["demo", "--headless"]
