package local

import "github.com/zerofleet/zerofleet/collective"

// sentBytes is what the operation moves from p's rank to q's by direct exchange.
func sentBytes(p, q *post) uint64 {
	switch p.op.Kind {
	case collective.KindAllGather, collective.KindSend:
		return uint64(len(p.args.src.Bytes))
	case collective.KindReduceScatter:
		if p.rank < p.op.Contributors {
			return uint64(p.op.Type.Size(p.op.Elems))
		}
	case collective.KindAllReduce:
		return uint64(len(p.args.dst.Bytes))
	case collective.KindExchange:
		return uint64(len(p.args.record))
	case collective.KindBroadcast:
		if p.rank == p.op.Peer {
			return uint64(len(p.args.dst.Bytes))
		}
	}
	return 0
}

// count adds to p's rank's counters what it would have sent and received over a network.
// The caller holds mu.
func (h *hub) count(p *post, posts []*post) {
	s := &h.groups[p.rank].stats
	for _, q := range posts {
		if q == p {
			continue
		}
		out, in := sentBytes(p, q), sentBytes(q, p)
		s.SentBytes[p.op.Kind] += out
		s.ReceivedBytes[p.op.Kind] += in
		s.Peers[q.rank].SentBytes += out
		s.Peers[q.rank].ReceivedBytes += in
	}
}
