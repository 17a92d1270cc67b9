# The page, or any of the scripts, in a container.
#
#   docker build -t skin .                            for CPUs
#   docker build -t skin --build-arg TORCH=cuda .     for NVIDIA GPUs
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/workspace" skin train.py --demo
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/workspace" -p 127.0.0.1:7860:7860 skin
#
# The working folder in the container is /workspace, so paths and results are those of the folder that is mounted there.
# The default shared memory of 64 MB is enough. With GPUs, add --gpus all.

FROM python:3.11-slim-bookworm

# cpu or cuda. PyPI's PyTorch for Linux brings CUDA; PyTorch's own index has one without: 0.5 GB to download in all, not 3.3.
ARG TORCH=cpu

WORKDIR /opt/skin
COPY requirements.txt ./
RUN case "$TORCH" in \
        cpu) index=https://download.pytorch.org/whl/cpu ;; \
        cuda) index= ;; \
        *) echo "TORCH=$TORCH: must be cpu or cuda" >&2; exit 2 ;; \
    esac \
    && pip install --no-cache-dir ${index:+--extra-index-url "$index"} -r requirements.txt

COPY train.py evaluate.py predict.py benchmark.py app.py ./
COPY skin/ skin/
RUN python -m compileall -q .

# `--user` may name any user, to whom the files of a run then belong. So home and working folder are everybody's.
ENV HOME=/home/skin PYTHONUNBUFFERED=1
RUN useradd --uid 1000 skin \
    && mkdir -p "$HOME/.cache" /workspace \
    && chmod 1777 "$HOME" "$HOME/.cache" /workspace
USER 1000
WORKDIR /workspace

EXPOSE 7860
# The first word is the script; `exec` lets the signals of `docker stop` reach it.
ENTRYPOINT ["sh", "-c", "exec python \"/opt/skin/$0\" \"$@\""]
CMD ["app.py", "--host", "0.0.0.0"]
