// For Go with modules: `go mod tidy`, then `go run . -join HOST:PORT`.
module broadcast/interop

go 1.19

require github.com/hashicorp/memberlist v0.5.0
