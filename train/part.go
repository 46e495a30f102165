package train

import (
	"context"
	"fmt"
	"math"

	"github.com/zeebo/xxh3"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/train/fault"
)

// part is this rank's part of one checkpoint: the copy of its state, and the errand that writes it.
type part struct {
	manifest checkpoint.Manifest // parts apart
	write    *errand
	copied   chan struct{} // closed when the state has been copied, and may change
	said     bool          // what the copy showed

	// What the copy showed; read only after copied.
	own, kept []uint64 // digests of the shard and of the ward's replica: see digests
	fault     error    // the copy came to nothing, or is of no use

	snapshot []checkpoint.Range // the copy; read only after write has ended
	written  checkpoint.Part    // read only after write has ended without an error
}

// startPart copies the state into snapshot, nil for new memory, and writes it. Nothing may change the state until copied is
// closed. stream is the copy's own.
func (t *Trainer) startPart(ctx context.Context, m checkpoint.Manifest, snapshot []checkpoint.Range, stream kernels.Stream, store checkpoint.Store,
	failed func(err error, first bool)) *part {
	p := &part{manifest: m, copied: make(chan struct{}), snapshot: snapshot}
	first := true
	p.write = startErrand(ctx, func(ctx context.Context) (err error) {
		if first {
			first = false
			if p.snapshot == nil { // here, since to take so much memory takes time
				p.snapshot = t.newSnapshot()
			}
			p.own, p.kept, p.fault = t.copyState(ctx, stream, p.snapshot)
			close(p.copied)
			if p.fault != nil {
				return permanent{p.fault}
			}
			fault.At(fault.InCheckpoint, m.Step)
		}
		p.written, err = checkpoint.WritePart(ctx, store, &m, t.rank, p.snapshot)
		return err
	}, failed)
	return p
}

// newSnapshot is memory for what this rank owns: 12 bytes a parameter over W.
func (t *Trainer) newSnapshot() []checkpoint.Range {
	all := make([]checkpoint.Range, len(t.units))
	for i := range t.units {
		u := &t.units[i]
		lo, hi := u.layout.Owned(t.rank)
		all[i] = checkpoint.Range{Unit: u.Name, Lo: lo}
		for f := range all[i].Fields {
			all[i].Fields[f] = make([]float32, hi-lo)
		}
	}
	return all
}

// copyState copies what this rank owns to ordinary memory, so that it can be written while training goes on, and digests
// it and the ward's replica on the way. Weights that are not finite are an error: nobody can go on from them.
//
// It runs beside the next step's forward and backward, which read the state and write none of it.
func (t *Trainer) copyState(ctx context.Context, stream kernels.Stream, into []checkpoint.Range) (own, kept []uint64, err error) {
	for i := range t.units {
		u := &t.units[i]
		lo, hi := u.layout.Owned(t.rank)
		for f, b := range u.shard().fields() {
			var h xxh3.Hasher
			for at := lo; at < hi; at += chunkElems {
				end := min(at+chunkElems, hi)
				dst := into[i].Fields[f][at-lo : end-lo]
				if err := download(ctx, stream, rawBytes(dst), b.Slice(at-u.base, end-u.base)); err != nil {
					return nil, nil, fmt.Errorf("copy state of %s: %w", u.Name, err)
				}
				if checkpoint.Field(f) == checkpoint.Master {
					if k := firstNonFinite(dst); k >= 0 {
						return nil, nil, fmt.Errorf("weights of %s are not finite", u.tensorAt(at+k))
					}
				}
				if t.replicates() {
					h.Write(rawBytes(dst))
				}
			}
			own = append(own, h.Sum64())
		}
	}
	if !t.replicates() {
		return nil, nil, nil
	}
	kept, err = t.digests(ctx, stream, func(u *unit) shardOf { return u.replica })
	return own, kept, err
}

func download(ctx context.Context, stream kernels.Stream, dst []byte, src kernels.Buffer) error {
	if err := stream.Download(dst, src); err != nil {
		return err
	}
	return stream.Sync(ctx)
}

// firstNonFinite is the index of the first Inf or NaN, -1 if there is none.
func firstNonFinite(all []float32) int {
	const exponent = 0xff << 23
	for i, x := range all {
		if math.Float32bits(x)&exponent == exponent {
			return i
		}
	}
	return -1
}

// tensorAt names the tensor of a canonical element.
func (u *unit) tensorAt(elem int) string {
	for _, tensor := range u.Tensors {
		if elem >= tensor.Offset && elem < tensor.Offset+tensor.Elems {
			return tensor.Name
		}
	}
	return u.Name
}
