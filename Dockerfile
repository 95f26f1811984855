# Each part is made in a stage of its own, below /out, and copied as one layer: the interpreter's bytecode with an empty virtual
# environment, torch, what else the project needs, the project. Files bear fixed times, so that equal parts are equal layers.
# checkov:skip=CKV_DOCKER_2: a job that ends needs no health check, and the OCI's format drops it
# checkov:skip=CKV_DOCKER_7: the base bears a version; it is an argument
# hadolint global ignore=DL3003,SC2086 # cd for one step, into a folder whose name holds Python's version; words meant to be split
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS base
LABEL org.opencontainers.image.title="step37-flickr8k"

FROM base AS build
RUN python -m venv /opt/tools
COPY requirements/build.txt /requirements/
RUN /opt/tools/bin/python -m pip install --no-cache-dir --require-hashes -r /requirements/build.txt

# The base brings no bytecode, and below a read-only root nobody could write it: each start would compile what it imports.
# unchecked-hash: valid whatever a file's time is, and never looked at again.
FROM base AS interpreter
RUN python -m venv --without-pip /opt/venv \
 && library="$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
 && python -m compileall -q -f --invalidation-mode unchecked-hash \
      -x '/(site-packages|dist-packages|test|tests|ensurepip|idlelib|lib2to3|turtledemo)/' "$library" \
 && mkdir /out \
 && find /opt/venv "$library" -path '*-packages' -prune -o \( -path '/opt/*' -o -name '*.pyc' \) -not -type d -exec cp -a --parents -t /out {} + \
 && find /out -exec touch -h -d @315532800 {} +

FROM build AS torch
ARG TORCH_INDEX_URL=""
ARG PYTORCH_CPU_INDEX=""
COPY --from=interpreter /out/ /
COPY tools/install_torch.py requirements/torch.txt /requirements/
RUN /opt/tools/bin/python /requirements/install_torch.py --requirement /requirements/torch.txt --index-url "$TORCH_INDEX_URL" \
      --cpu-index "$PYTORCH_CPU_INDEX" --python /opt/venv -- --no-cache-dir --no-compile --root /out \
 && cd /out/opt/venv/lib/python*/site-packages \
    # of no use without a compiler, or at all: headers, build helpers, torch's own tests; torch_shm_manager serves DataLoader's workers
 && rm -r torch/include torch/share torch/test \
 && find torch/bin -type f -not -name torch_shm_manager -delete \
 && find . -name '*.a' -delete \
 && python -m compileall -q --invalidation-mode unchecked-hash -x py312_ -s /out -p / /out/opt/venv \
 && find /out -exec touch -h -d @315532800 {} +

FROM build AS dependencies
COPY --from=interpreter /out/ /
COPY requirements/image.txt /requirements/
RUN /opt/tools/bin/python -m pip --python /opt/venv install --no-cache-dir --no-compile --root /out --require-hashes -r /requirements/image.txt \
 && cd /out/opt/venv/lib/python*/site-packages \
    # pyarrow: headers, sources, tests, spare names of one library, and clients of Flight and S3; the others: their tests
 && rm -r pyarrow/include pyarrow/includes pyarrow/src pyarrow/tests pyarrow/libarrow_python*.so pyarrow/libarrow_python*.so.*.*.* \
 && find pyarrow \( -name '*.py[xd]' -o -name '*.pxi' -o -name '*libarrow_flight*' -o -name '_flight*' -o -name '*libarrow_s3*' -o -name '_s3fs*' \) -delete \
 && find sympy networkx -type d -name tests -prune -exec rm -r {} + \
 && python -m compileall -q --invalidation-mode unchecked-hash -s /out -p / /out/opt/venv \
 && find /out -exec touch -h -d @315532800 {} +

# All but the project. This is the only RUN from here on: what a layer holds is what was made above. It takes from the base what
# lends rights (setuid, setgid) and what installs (pip, also the one that venv brings); the folders bear fixed times again.
FROM base AS runtime
RUN find /bin/ /sbin/ /usr -xdev -type f -perm /6000 -exec chmod ug-s {} + \
 && find /usr -xdev \( -name pip -o -name 'pip[0-9]*' -o -name 'pip-[0-9]*' -o -name ensurepip \) -prune \
      -execdir rm -r {} \; -execdir touch -d @315532800 . \;
COPY --from=interpreter /out/ /
COPY --from=torch /out/ /
COPY --from=dependencies /out/ /
ENV PATH=/opt/venv/bin:$PATH

# What is in the base and in the layers above; the project joins it as the subject.
FROM runtime AS inventory
COPY --from=build /opt/tools /opt/tools
RUN /opt/tools/bin/syft scan --quiet --select-catalogers dpkg,python --exclude './proc/**' --exclude './sys/**' \
      --exclude './opt/tools/**' --output cyclonedx-json=/opt/inventory.json dir:/

FROM inventory AS project
ARG SOURCE_DATE_EPOCH=315532800
COPY pyproject.toml README.md LICENSE /source/
COPY tools/sbom_subject.py /source/tools/
COPY src /source/src
RUN export SOURCE_DATE_EPOCH \
 && pip="/opt/tools/bin/python -m pip --no-cache-dir" \
 && $pip wheel --no-deps --no-build-isolation --wheel-dir /out/opt/wheels /source \
 && install="--python /opt/venv install --no-compile --no-deps --no-index --find-links /out/opt/wheels" \
 && $pip $install step37-flickr8k \
 && $pip --python /opt/venv check \
 && $pip $install --ignore-installed --root /out step37-flickr8k \
 && version="$(/opt/venv/bin/python -c 'import step37_flickr8k; print(step37_flickr8k.__version__)')" \
 && python /source/tools/sbom_subject.py step37-flickr8k "$version" Apache-2.0 </opt/inventory.json >/out/opt/sbom.cdx.json \
 && mkdir -p /out/usr/local/bin /out/etc/profile.d && ln -s /opt/venv/bin/step37-flickr8k /out/usr/local/bin/ \
    # a login shell, as enroot starts one for pyxis, resets PATH: there, too, python3 is the one that has torch
 && echo "PATH=/opt/venv/bin:\$PATH" >/out/etc/profile.d/step37-flickr8k.sh \
 && python -m compileall -q --invalidation-mode unchecked-hash -s /out -p / /out/opt/venv \
 && find /out -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

FROM runtime
COPY --from=project /out/ /
USER 10001:10001
ENTRYPOINT ["/opt/venv/bin/step37-flickr8k"]
CMD ["--help"]
ARG VERSION=""
ARG REVISION=""
ARG SOURCE=""
LABEL org.opencontainers.image.description="Fills a shared cache with the image-caption dataset intro/flickr8k before a training run" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
