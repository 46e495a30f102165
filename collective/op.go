package collective

import (
	"fmt"
	"strings"

	"github.com/zerofleet/zerofleet/kernels"
)

// Kind is which collective an operation is.
type Kind uint8

// The kinds of operation. The zero value is none.
const (
	KindAllGather Kind = iota + 1
	KindReduceScatter
	KindAllReduce
	KindExchange
	KindSend
	KindRecv
	KindBroadcast
)

// Kinds is the number of Kind values, the zero value counted.
const Kinds = int(KindBroadcast) + 1

var kindNames = [Kinds]string{"none", "all-gather", "reduce-scatter", "all-reduce", "exchange", "send", "recv", "broadcast"}

func (k Kind) String() string {
	if int(k) < Kinds {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Op says what an operation is, as far as the ranks must agree on it.
type Op struct {
	// Seq counts the Group's collective operations from 1; a send's or receive's counts
	// those of its ordered pair of ranks.
	Seq  uint64
	Kind Kind
	Name string
	// Elems is the length in elements of one rank's part: an all-gather's shard, a
	// reduce-scatter's slice, else the whole buffer. An exchange has none.
	Elems int
	// Type is 0 where a rank has no say: an exchange, a reduce-scatter without a leaf.
	Type kernels.DType
	// Peer is the other rank of a send or receive and the root of a broadcast, else 0.
	Peer int
	// FirstLeaf and Contributors are a reduce-scatter's, else 0.
	FirstLeaf, Contributors int
}

// String is as in "all-gather #41 block.3 [8192 f32]".
func (o Op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s #%d", o.Kind, o.Seq)
	if o.Name != "" {
		b.WriteByte(' ')
		b.WriteString(o.Name)
	}
	switch o.Kind {
	case KindSend:
		fmt.Fprintf(&b, " to rank %d", o.Peer)
	case KindRecv:
		fmt.Fprintf(&b, " from rank %d", o.Peer)
	case KindBroadcast:
		fmt.Fprintf(&b, " of rank %d", o.Peer)
	case KindReduceScatter:
		fmt.Fprintf(&b, " of leaves %d to %d", o.FirstLeaf, o.FirstLeaf+o.Contributors-1)
	}
	switch {
	case o.Kind == KindExchange:
	case o.Type == 0:
		fmt.Fprintf(&b, " [%d]", o.Elems)
	default:
		fmt.Fprintf(&b, " [%d %s]", o.Elems, o.Type)
	}
	return b.String()
}

// Agrees reports whether two ranks' views of one collective operation are the same. A type
// of 0 agrees with any. It is not for sends and receives, whose two sides differ.
func (o Op) Agrees(p Op) bool {
	if o.Type == 0 || p.Type == 0 {
		o.Type, p.Type = 0, 0
	}
	return o == p
}

// Matches reports whether a send and a receive are two sides of one transfer; which ranks
// they join is the transport's to check.
func (o Op) Matches(p Op) bool {
	if o.Kind == KindRecv {
		o, p = p, o
	}
	return o.Kind == KindSend && p.Kind == KindRecv &&
		o.Seq == p.Seq && o.Name == p.Name && o.Elems == p.Elems && o.Type == p.Type
}
