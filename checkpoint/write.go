package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"

	"github.com/zerofleet/zerofleet/safetensors"
)

// WriteBytes is how much of a part is given to a store at once.
const WriteBytes = 1 << 20

// WritePart writes what rank of m.World owns, one Range for every unit of m in its order, and returns the part's entry
// for the manifest. The ranges are read twice, and again whenever the store tries again: for the checksums, which stand
// before them, and for the object.
func WritePart(ctx context.Context, s Store, m *Manifest, rank int, ranges []Range) (Part, error) {
	if err := checkRanges(m, rank, ranges); err != nil {
		return Part{}, err
	}
	sums, err := sumChunks(ctx, ranges)
	if err != nil {
		return Part{}, fmt.Errorf("digest part %d of step %d: %w", rank, m.Step, err)
	}
	h := sha256.New()
	head := &counter{w: h}
	if _, err := encodeHead(head, m, rank, ranges, sums); err != nil {
		return Part{}, fmt.Errorf("digest part %d of step %d: %w", rank, m.Step, err)
	}
	sum := hex.EncodeToString(h.Sum(nil))
	p := Part{Rank: rank, Bytes: head.n, HeadBytes: head.n, SHA256: sum,
		Key: path.Join(stepFolder(m.Step), fmt.Sprintf("gen-%d-part-%d-of-%d-%s.safetensors", m.Generation, rank, m.World, sum[:16]))}
	for _, r := range ranges {
		for _, values := range r.Fields {
			p.Bytes += 4 * int64(len(values))
		}
	}
	err = s.Put(ctx, p.Key, func(w io.Writer) error { return encodePart(w, m, rank, ranges, sums) })
	if err != nil {
		return Part{}, fmt.Errorf("write part %d of step %d: %w", rank, m.Step, err)
	}
	return p, nil
}

func checkRanges(m *Manifest, rank int, ranges []Range) error {
	if rank < 0 || rank >= m.World || len(ranges) != len(m.Units) {
		return fmt.Errorf("part of rank %d of %d: %d ranges for %d units", rank, m.World, len(ranges), len(m.Units))
	}
	for i, u := range m.Units {
		layout, err := m.Layout(u)
		if err != nil {
			return err
		}
		lo, hi := layout.Owned(rank)
		for f, values := range ranges[i].Fields {
			if ranges[i].Unit != u.Name || ranges[i].Lo != lo || len(values) != hi-lo {
				return fmt.Errorf("part of rank %d: %s of %s has elements [%d,%d), want %s [%d,%d)", rank, Field(f), ranges[i].Unit,
					ranges[i].Lo, ranges[i].Lo+len(values), u.Name, lo, hi)
			}
		}
	}
	return nil
}

// encodeHead writes what stands before the fields: the safetensors header and the checksums.
func encodeHead(w io.Writer, m *Manifest, rank int, ranges []Range, sums []byte) (*safetensors.Writer, error) {
	infos := []safetensors.TensorInfo{{Name: sumsName, DType: safetensors.U8, Shape: []int{len(sums) / sumBytes, sumBytes}}}
	for _, r := range ranges {
		for f, values := range r.Fields {
			infos = append(infos, safetensors.TensorInfo{Name: tensorName(r.Unit, Field(f)), DType: safetensors.F32, Shape: []int{len(values)}})
		}
	}
	sw, err := safetensors.NewWriter(w, infos, map[string]string{
		"format": "zerofleet", "version": strconv.Itoa(Version), "job": m.Job, "step": strconv.FormatInt(m.Step, 10),
		"generation": strconv.FormatUint(m.Generation, 10), "rank": strconv.Itoa(rank), "world": strconv.Itoa(m.World),
		"chunk_bytes": strconv.Itoa(chunkBytes),
	})
	if err != nil {
		return nil, err
	}
	return sw, sw.WriteBytes(sumsName, sums)
}

func encodePart(w io.Writer, m *Manifest, rank int, ranges []Range, sums []byte) error {
	sw, err := encodeHead(w, m, rank, ranges, sums)
	if err != nil {
		return err
	}
	for _, r := range ranges {
		for f, values := range r.Fields {
			for piece := range slices.Chunk(rawBytes(values), WriteBytes) {
				if err := sw.WriteBytes(tensorName(r.Unit, Field(f)), piece); err != nil {
					return err
				}
			}
		}
	}
	return sw.Finish()
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
