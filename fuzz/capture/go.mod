// For Go with modules: `go mod tidy`, then as fuzz/README.md has it.
module broadcast/capture

go 1.19

require github.com/hashicorp/memberlist v0.5.0
