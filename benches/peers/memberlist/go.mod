// For Go with modules: `go mod tidy`, then `go run . -mode paced -msgs 400`.
module broadcast/peers

go 1.21

require github.com/hashicorp/memberlist v0.5.0
