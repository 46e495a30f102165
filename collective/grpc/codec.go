package grpc

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/zerofleet/zerofleet/collective/internal/frame"
)

// codec carries frames, and the protobuf messages of what else is served on the port. What
// arrives is not copied: a frame refers to the buffers that gRPC read from the socket.
type codec struct{}

// received is what RecvMsg fills: a frame, or why the bytes are none. The error stands here
// rather than in Unmarshal's result, which gRPC would turn into text.
type received struct {
	frame *frame.Frame
	err   error
}

func (codec) Name() string { return "zerofleet-frame" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(proto.Message); ok {
		return encoding.GetCodecV2(grpcproto.Name).Marshal(m)
	}
	f, ok := v.(*frame.Outgoing)
	if !ok {
		return nil, fmt.Errorf("marshal %T: want a frame", v)
	}
	return f.Encode(frame.Buffers)
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(proto.Message); ok {
		return encoding.GetCodecV2(grpcproto.Name).Unmarshal(data, m)
	}
	r, ok := v.(*received)
	if !ok {
		return fmt.Errorf("unmarshal into %T: want a frame", v)
	}
	r.frame, r.err = frame.Decode(data)
	return nil
}
