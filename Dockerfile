# Two stages: Rust builds, a small Debian runs. No package of the build stage reaches the image that runs.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package sallyport-server \
 && install -D target/release/sallyport /out/sallyport

FROM debian:bookworm-slim
# ca-certificates: the roots that issuers are checked against. curl: the health check.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates curl \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --no-create-home sallyport \
 && install -d -o sallyport -m 0700 /var/lib/sallyport
COPY --from=build /out/sallyport /usr/local/bin/sallyport
USER sallyport
WORKDIR /var/lib/sallyport
ENV SALLYPORT_DATA_DIR=/var/lib/sallyport
EXPOSE 8080 8081
ENTRYPOINT ["sallyport"]
CMD ["serve"]
