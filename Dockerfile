# ser-jax in a container; docs/install.md has the commands.
#   docker build -t ser_jax .
#   docker build --build-arg EXTRAS=cuda13,serve,media -t ser_jax:cuda .
ARG PYTHON=3.13
FROM python:${PYTHON}-slim

# The kernels for training on a CPU are compiled at first use.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY constraints constraints
COPY configs configs
COPY ser_jax ser_jax
ARG PYTHON
ARG EXTRAS=serve,media
RUN pip install --no-cache-dir -c "constraints/${PYTHON}.txt" ".[${EXTRAS}]" && rm -rf build

# Any user may write the cache: `docker run --user` names another one.
RUN useradd --create-home --uid 1000 ser_jax && mkdir --mode=1777 /cache /work
USER 1000
ENV XDG_CACHE_HOME=/cache
VOLUME /cache
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["ser-jax"]
CMD ["--help"]
