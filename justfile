# SPDX-License-Identifier: Apache-2.0
# One door. `check` never writes, `fix` does.

# Lists the doors.
default:
    @just --list

# What a change must pass before it is committed.
check: lint tidy
    cargo fmt --all --check
    cargo test --workspace --lib

# Exactly what CI runs.
ci:
    .ci/run

# All tests.
test *ARGS:
    ./test {{ARGS}}

# The linter, warnings denied.
lint:
    RUSTFLAGS="-D warnings" cargo clippy --workspace --all-targets --locked
    cd bench && RUSTFLAGS="-D warnings" cargo clippy --all-targets --locked

# Arrows between crates, licence lines, lengths, banned words.
tidy:
    cargo test -p atomix-tests --test tidy

# Documents, warnings denied.
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# The book of `docs/` in `target/book` (needs mdbook).
book:
    mdbook build docs

# Licences, duplicates and sources of dependencies (needs cargo-deny).
deny:
    cargo deny --locked check licenses bans sources

# Dependencies that nothing uses (needs cargo-machete).
unused:
    cargo machete .

# The comparison of docs/reference/performance.md, 40 minutes on a quiet machine; --quick shows that it works.
compare *ARGS:
    bench/compare {{ARGS}}

# A fuzz target for a while (needs cargo-fuzz and a nightly toolchain).
fuzz TARGET SECONDS="60":
    cargo +nightly fuzz run {{TARGET}} -- -max_total_time={{SECONDS}}

# Formats, and writes what is generated.
fix:
    cargo fmt --all
    cd bench && cargo fmt
    cargo run -q -p atomix-config --example print_reference > docs/reference/configuration.md.new
    mv docs/reference/configuration.md.new docs/reference/configuration.md
    cargo build -q -p atomix
    ATOMIX_TEST_WRITE=1 cargo test -q -p atomix-tests --test guarantees --test pages
