package engine

import (
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
	"github.com/zerofleet/zerofleet/kernels"
	pb "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// maxCauseBytes bounds the text of a Leave.
const maxCauseBytes = 1 << 10

func (e *Engine) header(k frame.Kind) frame.Header {
	return frame.Header{Kind: k, Job: e.job, Generation: e.cfg.Generation, Rank: uint32(e.rank)}
}

func (e *Engine) opHeader(k frame.Kind, at key) frame.Header {
	h := e.header(k)
	h.Space, h.Seq = at.space, at.seq
	return h
}

// encode marshals a message of ours, which cannot fail: its strings are valid UTF-8.
func encode(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", m, err))
	}
	return b
}

func opToWire(o collective.Op) *pb.CollectiveOp {
	return &pb.CollectiveOp{
		Seq: o.Seq, Kind: uint32(o.Kind), Name: strings.ToValidUTF8(o.Name, "?"), Elems: uint64(o.Elems), Type: uint32(o.Type),
		Peer: uint32(o.Peer), FirstLeaf: uint64(o.FirstLeaf), Contributors: uint32(o.Contributors),
	}
}

// opFromWire reads a description from a peer. Every number is bounded.
func opFromWire(m *pb.CollectiveOp, size int) (collective.Op, error) {
	o := collective.Op{
		Seq: m.GetSeq(), Kind: collective.Kind(m.GetKind()), Name: m.GetName(), Type: kernels.DType(m.GetType()),
	}
	switch {
	case m.GetKind() == 0 || m.GetKind() >= uint32(collective.Kinds):
		return o, fmt.Errorf("an operation of kind %d", m.GetKind())
	case o.Seq == 0:
		return o, fmt.Errorf("%s: sequence numbers count from 1", o)
	case len(o.Name) > collective.MaxNameBytes:
		return o, fmt.Errorf("a name of %d bytes: want at most %d", len(o.Name), collective.MaxNameBytes)
	case m.GetType() > math.MaxUint8 || o.Type != 0 && o.Type.Bytes() == 0:
		return o, fmt.Errorf("%s: type %d: no such type", o, m.GetType())
	case m.GetElems() > math.MaxInt32*64:
		return o, fmt.Errorf("%s: %d elements: want at most %d", o, m.GetElems(), math.MaxInt32*64)
	case m.GetElems()%uint64(o.Type.Block()) != 0:
		return o, fmt.Errorf("%s: %d elements of %s: want a multiple of %d", o, m.GetElems(), o.Type, o.Type.Block())
	case m.GetPeer() >= uint32(size) || m.GetContributors() > uint32(size) || m.GetFirstLeaf() > math.MaxInt32:
		return o, fmt.Errorf("%s: peer %d, %d contributors from leaf %d: out of range for %d ranks", o, m.GetPeer(), m.GetContributors(), m.GetFirstLeaf(), size)
	}
	o.Elems, o.Peer, o.FirstLeaf, o.Contributors = int(m.GetElems()), int(m.GetPeer()), int(m.GetFirstLeaf()), int(m.GetContributors())
	return o, nil
}

// lastOp is what is known of a peer's newest operation.
type lastOp struct {
	known    bool
	op       collective.Op
	finished bool
	since    time.Time // it finished, or was begun, by this rank's clock
}

// String is as in "all-gather #40 embed [64 f32], finished 61s ago"; "" when nothing is known.
func (l lastOp) String() string {
	if !l.known {
		return ""
	}
	state := "begun"
	if l.finished {
		state = "finished"
	}
	return fmt.Sprintf("%s, %s %s ago", l.op, state, collective.Age(time.Since(l.since)))
}

func (e *Engine) progress() *frame.Outgoing {
	m := &pb.CollectiveProgress{}
	if r, ok := e.recorder.Last(); ok {
		m.Last = opToWire(r.Op)
		since := r.Posted
		if m.Finished = !r.Ended.IsZero(); m.Finished {
			since = r.Ended
		}
		m.AgeMicros = uint64(time.Since(since).Microseconds())
	}
	return &frame.Outgoing{Header: e.header(frame.Progress), Meta: encode(m)}
}

func inOrder(m *pb.CollectiveLeave) bool { return m.GetCause() == "" && m.GetFencedBy() == 0 }

func leaveInOrder() *pb.CollectiveLeave { return &pb.CollectiveLeave{} }

// leaveBecause tells peers of an error that lies with culprit.
func leaveBecause(err error, culprit int) *pb.CollectiveLeave {
	text := strings.ToValidUTF8(err.Error(), "?")
	if len(text) > maxCauseBytes {
		text = strings.ToValidUTF8(text[:maxCauseBytes], "")
	}
	return &pb.CollectiveLeave{Cause: text, Culprit: uint32(culprit)}
}
