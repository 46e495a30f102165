// Package collective is how the ranks of one generation exchange tensors: all-gather,
// reduce-scatter, all-reduce, broadcast, point-to-point and small records.
//
// A Group is one rank's membership in one generation. Transports make Groups: collective/grpc
// between processes, collective/local between goroutines of one process, for tests. Every rank
// calls the same collective operations in the same order; operations may overlap, and are
// matched by a sequence number that each Group assigns in call order. Sends and receives are
// matched in call order per ordered pair of ranks, so that they concern those two alone.
//
// Sums are exact in this sense: contributions are added in rank order, element by element, so
// the result's bits depend on neither the transport, the timing nor the chunking. A Group that was made without an order keeps
// that of no reduce-scatter, and may give an Accumulator several leaves as one sum.
//
// A Group fails as a whole. After one operation has failed, by a lost peer, a deadline, a
// disagreement, a cancelled context or a newer generation, every pending and later operation
// returns that first error, the other ranks are told, and the caller closes the Group; what
// comes next is the next generation's Group.
package collective

import (
	"context"
	"time"

	"github.com/zerofleet/zerofleet/kernels"
)

// MaxRecordBytes is the longest record that Exchange takes.
const MaxRecordBytes = 64 << 10

// MaxNameBytes is the longest name of an operation.
const MaxNameBytes = 128

// Buffer is a range of host memory seen as elements of one type, little-endian. The zero
// Buffer stands for "none" where an operation allows it.
type Buffer struct {
	Bytes []byte
	Type  kernels.DType
}

// Len is the number of elements.
func (b Buffer) Len() int { return b.Type.Len(len(b.Bytes)) }

// IsZero reports whether b is the zero Buffer, or empty without a type.
func (b Buffer) IsZero() bool { return b.Type == 0 && len(b.Bytes) == 0 }

// Accumulator is what a rank's slice of a reduction is added onto.
//
// A Group calls Fold from one goroutine at a time, and for each element in leaf order, over all
// of the Group's reduce-scatters in their call order. So one Accumulator may serve several of
// them in flight: rounds of leaves, one after the other.
type Accumulator interface {
	// Len is the number of elements of the slice.
	Len() int
	// Fold adds leaf's elements src, of type t, onto elements [off, off+t.Len(len(src))).
	// src holds whole elements, or blocks of them, may be unaligned, and is valid only during the call.
	// An error fails the Group.
	Fold(leaf, off int, src []byte, t kernels.DType) error
}

// Group is one rank's membership in one generation.
//
// Its methods may be called from several goroutines, but the order of the collective calls
// must be the same on every rank, so one goroutine usually makes them. name goes into the
// flight recorder and into errors, and must agree between the ranks, like shape and type.
//
// Until a Pending is done its buffers belong to the Group. Nothing is written to a buffer
// before its owner has posted the operation.
//
// ctx bounds an operation, not only the wait for it: when it ends first, the operation and
// with it the Group has failed.
//
// Errors: *Mismatch when ranks disagree; *PeerError when a peer is lost, fails or breaks the
// protocol; *StallError when the deadline passes without progress; ErrFenced when a newer
// generation began; ErrClosed after Close; ctx's error.
type Group interface {
	// Rank is this member's index, in [0, Size()).
	Rank() int
	// Size is the world size W.
	Size() int
	// Generation is the number of the membership this Group belongs to.
	Generation() uint64

	// AllGather gives every rank all shards, in rank order. dst: [W, n], shard: [n], one
	// type. shard may be dst's own part (in place), which saves a copy. Sends (W-1)*n
	// elements and receives as many.
	AllGather(ctx context.Context, name string, dst, shard Buffer) *Pending

	// ReduceScatter adds one round of leaves onto each owner's accumulator.
	//
	// src is [W, n] of f32, bf16 or int8, in rank order, n = acc.Len(); the zero Buffer for a rank
	// that has no leaf this round. Ranks 0 .. contributors-1 have one: rank r's is leaf
	// firstLeaf+r. Each owner's slices are folded onto acc in rank order, its own in its
	// turn; a rank without a leaf contributes nothing, not zeros. At W = 1 the one leaf goes
	// through acc.Fold like any other. A contributor sends (W-1)*n elements; an owner
	// receives n from every other contributor and buffers no more than the receive budget.
	//
	// Source: pairwise exchange; Thakur, Rabenseifner, Gropp 2005, Int. J. High Perf. Comp.
	// App. 19(1), section 4.3.
	ReduceScatter(ctx context.Context, name string, acc Accumulator, src Buffer, firstLeaf, contributors int) *Pending

	// AllReduce replaces buf, [n] f32, by the sum over ranks: a left fold from +0 in rank
	// order, the same bits on every rank. Small buffers take one hop.
	AllReduce(ctx context.Context, name string, buf Buffer) *Pending

	// Exchange gives every rank all ranks' records, in rank order; of empty ones, it is a
	// barrier. A record is at most MaxRecordBytes long; lengths may differ. The returned
	// slices are the caller's.
	Exchange(ctx context.Context, record []byte) ([][]byte, error)

	// Send gives src to rank to, whose matching Recv has the same name, type and length.
	Send(ctx context.Context, name string, to int, src Buffer) *Pending
	// Recv fills dst with what rank from sends. A rank may not send to itself.
	Recv(ctx context.Context, name string, from int, dst Buffer) *Pending

	// Broadcast gives every rank root's buf, [n] of one type.
	Broadcast(ctx context.Context, name string, root int, buf Buffer) *Pending

	// Share lets peers on this host read b where it is, while the Group lasts: what operations send from it is not copied on
	// the way. b is the mapping of all of file fd, which is sealed against shrinking, growing and other writers
	// (kernels/memfd); both must stay until Close. A Group that shares no memory ignores it.
	Share(b []byte, fd int) error

	// Stats is a copy of the counters since the Group began.
	Stats() Stats
	// Records is a copy of the flight recorder: the last MaxRecords operations in the
	// order they were posted.
	Records() []Record
	// Last is the record of the operation posted last; false when there was none.
	Last() (Record, bool)

	// Stalled is the operation that has made no progress for the longest, if that is more than longer, and whom it waits for;
	// nil when all go on. Of a Group that has failed it is what it was at that moment. It costs little, and changes nothing.
	Stalled(longer time.Duration) *StallError

	// Close ends the membership and every goroutine of it. What was completed here is
	// delivered to the peers first, as long as they live; what is pending fails with
	// ErrClosed. Close may be called more than once.
	Close() error
}
