package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"math"
)

const hashChunkElems = 1 << 18

// Hash is what two runs of one job must share: SHA-256 over, in canonical order and without padding, each tensor's name,
// shape, master, m and v as little-endian f32; then data step, optimizer step, loss scale and data cursor (sample,
// epoch). Generation, layout and fingerprint are left out. A name is followed by a zero byte; the number of dimensions,
// each dimension, the steps and the cursor are little-endian u64, the loss scale f64.
func Hash(ctx context.Context, r *Reader) (string, error) {
	h := sha256.New()
	m := r.Manifest()
	for _, u := range m.Units {
		for _, t := range u.Tensors {
			h.Write(append([]byte(t.Name), 0))
			words(h, uint64(len(t.Shape)))
			for _, d := range t.Shape {
				words(h, uint64(d))
			}
			for f := range Fields {
				if err := hashRange(ctx, h, r, u.Name, f, t.Offset, t.Offset+t.Elems()); err != nil {
					return "", fmt.Errorf("hash %s of %s: %w", f, t.Name, err)
				}
			}
		}
	}
	words(h, uint64(m.Step), uint64(m.OptimizerStep), math.Float64bits(m.LossScale), uint64(m.Cursor.Sample), uint64(m.Cursor.Epoch))
	return hex.EncodeToString(h.Sum(nil)), nil
}

func hashRange(ctx context.Context, h hash.Hash, r *Reader, unit string, f Field, lo, hi int) error {
	values := make([]float32, min(hashChunkElems, hi-lo))
	for at := lo; at < hi; at += len(values) {
		n := min(len(values), hi-at)
		if err := r.Read(ctx, unit, f, at, at+n, values[:n]); err != nil {
			return err
		}
		h.Write(rawBytes(values[:n]))
	}
	return nil
}

func words(h hash.Hash, list ...uint64) {
	for _, w := range list {
		h.Write(binary.LittleEndian.AppendUint64(nil, w))
	}
}
