# A static binary on an empty base: no shell, no package manager, no user but nobody's.
FROM rust:1.95-alpine AS build
RUN apk add --no-cache musl-dev cmake make perl clang ca-certificates
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package lockstep --bin lockstep

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/target/release/lockstep /lockstep
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
ENTRYPOINT ["/lockstep"]
CMD ["run"]
