package local

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/kernels"
)

// chunkBytes is how much of a slice is folded before the next rank's turn, as a networked
// transport would: small enough that a chunk stays in cache.
const chunkBytes = 1 << 20

// execute carries an operation out for all its ranks. posts are sorted by rank. The error
// is the named rank's.
func execute(posts []*post) (rank int, err error) {
	switch posts[0].op.Kind {
	case collective.KindAllGather:
		allGather(posts)
	case collective.KindReduceScatter:
		return reduceScatter(posts)
	case collective.KindAllReduce:
		allReduce(posts)
	case collective.KindExchange:
		exchange(posts)
	case collective.KindBroadcast:
		for _, p := range posts {
			copy(p.args.dst.Bytes, posts[p.op.Peer].args.dst.Bytes)
		}
	case collective.KindSend:
		copy(posts[1].args.dst.Bytes, posts[0].args.src.Bytes)
	case collective.KindRecv:
		copy(posts[0].args.dst.Bytes, posts[1].args.src.Bytes)
	}
	return 0, nil
}

func allGather(posts []*post) {
	for _, p := range posts {
		n := len(p.args.src.Bytes)
		for r, q := range posts {
			copy(p.args.dst.Bytes[r*n:(r+1)*n], q.args.src.Bytes) // in place: onto itself
		}
	}
}

func reduceScatter(posts []*post) (rank int, err error) {
	t := posts[0].op.Type // rank 0 always contributes
	chunk := chunkBytes / kernels.F32.Bytes()
	n, first := posts[0].op.Elems, posts[0].op.FirstLeaf
	for _, owner := range posts {
		for lo := 0; lo < n; lo += chunk {
			hi := min(lo+chunk, n)
			for r, p := range posts[:owner.op.Contributors] {
				part := p.args.src.Bytes[t.Size(owner.rank*n):]
				if err := owner.args.acc.Fold(first+r, lo, part[t.Size(lo):t.Size(hi)], t); err != nil {
					return owner.rank, err
				}
			}
		}
	}
	return 0, nil
}

func allReduce(posts []*post) {
	sum := make([]float32, posts[0].op.Elems)
	for _, p := range posts {
		for i := range sum {
			sum[i] += math.Float32frombits(binary.LittleEndian.Uint32(p.args.dst.Bytes[4*i:]))
		}
	}
	for _, p := range posts {
		for i, v := range sum {
			binary.LittleEndian.PutUint32(p.args.dst.Bytes[4*i:], math.Float32bits(v))
		}
	}
}

func exchange(posts []*post) {
	for _, p := range posts {
		for r, q := range posts {
			p.args.records[r] = slices.Clone(q.args.record)
		}
	}
}
