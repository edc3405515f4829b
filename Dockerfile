# The service on a CPU:
#   docker build -t ssd4rec .
#   docker run -p 127.0.0.1:8080:8080 -v "$PWD/models:/models" -v ssd4rec-data:/data -e SSD4REC_STORE=sqlite:////data/events.db ssd4rec
# A key is required because the container listens on all of its addresses: docker run … ssd4rec keys create --store … admin
FROM python:3.11-slim AS build
WORKDIR /src
# The index of the CPU builds of torch, for an image without CUDA: docker build --build-arg TORCH_INDEX=URL
ARG TORCH_INDEX=
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c constraints.txt torch \
 && /venv/bin/pip install --no-cache-dir -c constraints.txt '.[serve,demo]'

FROM python:3.11-slim
RUN useradd --create-home --uid 1000 ssd4rec && mkdir /models /data && chown ssd4rec /models /data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
USER ssd4rec
WORKDIR /home/ssd4rec
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health/ready', timeout=2)"]
ENTRYPOINT ["ssd4rec"]
CMD ["serve", "/models", "--host", "0.0.0.0", "--port", "8080"]
