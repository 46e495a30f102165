// Package zerofleetv1 is the wire between the parts of zerofleet, generated from the .proto files beside it.
package zerofleetv1

//go:generate sh -c "cd ../../.. && protoc -I proto --plugin=protoc-gen-go=$(go tool -n protoc-gen-go) --plugin=protoc-gen-go-grpc=$(go tool -n protoc-gen-go-grpc) --go_out=. --go_opt=module=github.com/zerofleet/zerofleet --go-grpc_out=. --go-grpc_opt=module=github.com/zerofleet/zerofleet proto/zerofleet/v1/*.proto"
