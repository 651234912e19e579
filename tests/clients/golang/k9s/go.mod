// k9s, for `make test-clients`: built by .ci/clients-go, never shipped.
module trimtab.dev/clients/k9s

go 1.26.0

require github.com/derailed/k9s v0.50.18
