# Dependencies are a layer of their own: a change of the sources alone rebuilds the workspace's six crates, not theirs.
# (Layers rather than cache mounts: Railway's builder takes cache mounts only with a service's own id in them.)
FROM rust:1-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /build
ENV CARGO_PROFILE_RELEASE_STRIP=true

COPY Cargo.toml Cargo.lock ./
COPY crates/simd/Cargo.toml crates/simd/
COPY crates/kernels/Cargo.toml crates/kernels/
# Its manifest names them.
COPY crates/kernels/benches crates/kernels/benches
COPY crates/model/Cargo.toml crates/model/
COPY crates/engine/Cargo.toml crates/engine/
COPY crates/server/Cargo.toml crates/server/
COPY crates/cli/Cargo.toml crates/cli/
RUN for crate in simd kernels model engine server; do mkdir crates/$crate/src && touch crates/$crate/src/lib.rs; done \
    && mkdir crates/cli/src && echo 'fn main() {}' > crates/cli/src/main.rs \
    && cargo build --release --locked --package danaus \
    && rm -r crates/*/src

COPY models models
COPY crates crates
# The empty stand-ins are newer than the sources: make the sources newer still.
RUN find crates -name '*.rs' -exec touch {} + && cargo build --release --locked --package danaus

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/danaus /usr/local/bin/danaus
# Models are kept here: mount a volume to keep them between deployments. The image runs as its user "nonroot" (65532).
ENV HF_HOME=/home/nonroot/.cache/huggingface
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=6s --start-period=10m --retries=3 CMD ["danaus", "health"]
ENTRYPOINT ["danaus"]
CMD ["serve"]
