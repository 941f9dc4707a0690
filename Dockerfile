# A static binary on an empty base: no shell, no package manager, no user but nobody's. It is the binary of release/build.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends musl-tools cmake clang perl python3
WORKDIR /src
COPY . .
RUN release/build /out

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/lockstep /lockstep
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
ENTRYPOINT ["/lockstep"]
CMD ["run"]
