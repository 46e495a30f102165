package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/shard"
)

// manifest is a checkpoint of SmolLM2-135M's shape at a world size, and its parts' ranges.
func manifest(world int) (m checkpoint.Manifest, ranges [][]checkpoint.Range, err error) {
	m = checkpoint.Manifest{Version: checkpoint.Version, Job: "bench", Step: 1, OptimizerStep: 1, Generation: 1, World: world, LossScale: 1, Model: []byte("{}")}
	ranges = make([][]checkpoint.Range, world)
	for _, u := range smolLM2.Units() {
		unit := checkpoint.Unit{Name: u.Name, Elems: u.Elems}
		for _, t := range u.Tensors {
			unit.Tensors = append(unit.Tensors, checkpoint.Tensor{Name: t.Name, Shape: t.Shape, Offset: t.Offset})
		}
		m.Units = append(m.Units, unit)
		layout, err := shard.NewLayout(u.Elems, world)
		if err != nil {
			return m, nil, err
		}
		for rank := range world {
			lo, hi := layout.Owned(rank)
			r := checkpoint.Range{Unit: u.Name, Lo: lo}
			for f := range r.Fields {
				r.Fields[f] = make([]float32, hi-lo)
				for i := range r.Fields[f] { // memory that is there, and nothing that a disk could leave out
					r.Fields[f][i] = float32(uint32(i)*2654435761) + float32(f)
				}
			}
			ranges[rank] = append(ranges[rank], r)
		}
	}
	return m, ranges, nil
}

// writes prints how fast a part is written, from the first checksum to the last sync, beside fio in turn.
func writes(ctx context.Context, t io.Writer, dir string, rounds int) error {
	m, ranges, err := manifest(workers)
	if err != nil {
		return err
	}
	fmt.Fprintln(t, "part MiB\tzerofleet MiB/s\tfio MiB/s\tratio\tlowest\thighest\t")
	var ours, theirs, ratios []float64
	bytes := int64(0)
	for i := range rounds + 1 {
		s := checkpoint.Dir(filepath.Join(dir, "write"))
		start := time.Now()
		part, err := checkpoint.WritePart(ctx, s, &m, 0, ranges[0])
		if err != nil {
			return err
		}
		rate := float64(part.Bytes) / time.Since(start).Seconds() / (1 << 20)
		bytes = part.Bytes
		if err := os.RemoveAll(string(s)); err != nil {
			return fmt.Errorf("remove what was written: %w", err)
		}
		reference, err := fio(ctx, dir, part.Bytes)
		if err != nil {
			return err
		}
		if i > 0 { // one of each is not counted
			ours, theirs, ratios = append(ours, rate), append(theirs, reference), append(ratios, rate/reference)
		}
	}
	lowest, highest := ratios[0], ratios[0]
	for _, r := range ratios {
		lowest, highest = min(lowest, r), max(highest, r)
	}
	fmt.Fprintf(t, "%.0f\t%.0f\t%.0f\t%.2f\t%.2f\t%.2f\t\n", float64(bytes)/(1<<20), median(ours), median(theirs), median(ratios), lowest, highest)
	return nil
}

// fio writes a new file of as many bytes in blocks of as many as ours, and syncs it once at the end, as we do.
func fio(ctx context.Context, dir string, bytes int64) (mibPerSecond float64, err error) {
	name := filepath.Join(dir, "fio.file")
	cmd := exec.CommandContext(ctx, "fio", "--name=write", "--filename="+name, "--rw=write", "--ioengine=psync", fmt.Sprintf("--bs=%d", checkpoint.WriteBytes),
		fmt.Sprintf("--size=%d", bytes), "--end_fsync=1", "--fallocate=none", "--output-format=json")
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("run fio (Debian and Ubuntu: apt-get install fio): %w", err)
	}
	var result struct {
		Jobs []struct {
			Write struct {
				Bytes   int64   `json:"io_bytes"`
				Runtime float64 `json:"runtime"` // ms, with the sync
			}
		}
	}
	if err := json.Unmarshal(out, &result); err != nil || len(result.Jobs) != 1 {
		return 0, fmt.Errorf("decode what fio says: %d jobs, %w", len(result.Jobs), err)
	}
	w := result.Jobs[0].Write
	if err := os.Remove(name); err != nil {
		return 0, fmt.Errorf("remove fio's file: %w", err)
	}
	return float64(w.Bytes) / (w.Runtime / 1000) / (1 << 20), nil
}

// reads prints the bytes that a rank reads when a checkpoint is restored at another world size, as a share of those that
// it needs: masters and moments of its shard.
func reads(ctx context.Context, t io.Writer, dir string) error {
	fmt.Fprintln(t, "written by\tread by\tneeds MiB a rank\treads\tof what it needs\t")
	for _, wrote := range []int{1, 2, 4} {
		m, ranges, err := manifest(wrote)
		if err != nil {
			return err
		}
		s := checkpoint.Dir(filepath.Join(dir, "read"))
		for rank, r := range ranges {
			part, err := checkpoint.WritePart(ctx, s, &m, rank, r)
			if err != nil {
				return err
			}
			m.Parts = append(m.Parts, part)
		}
		for _, reading := range []int{1, 2, 3, 4, 8} {
			if reading == wrote {
				continue
			}
			worst, needs, reads := 0.0, int64(0), int64(0)
			for rank := range reading {
				n, got, err := restore(ctx, s, &m, rank, reading)
				if err != nil {
					return err
				}
				if ratio := float64(got) / float64(n); ratio > worst {
					worst, needs, reads = ratio, n, got
				}
			}
			fmt.Fprintf(t, "%d\t%d\t%.1f\t%.1f\t%.4f\t\n", wrote, reading, float64(needs)/(1<<20), float64(reads)/(1<<20), worst)
		}
		if err := os.RemoveAll(string(s)); err != nil {
			return fmt.Errorf("remove what was written: %w", err)
		}
	}
	return nil
}

// restore reads what a rank of world owns, as a trainer does, and returns the bytes that it needs and that it read.
func restore(ctx context.Context, s checkpoint.Store, m *checkpoint.Manifest, rank, world int) (needs, reads int64, err error) {
	r := checkpoint.Open(s, m)
	defer r.Close()
	dst := make([]float32, 1<<20)
	for _, u := range m.Units {
		layout, err := shard.NewLayout(u.Elems, world)
		if err != nil {
			return 0, 0, err
		}
		lo, hi := layout.Owned(rank)
		needs += int64(checkpoint.Fields) * 4 * int64(hi-lo)
		for f := range checkpoint.Fields {
			for at := lo; at < hi; at += len(dst) {
				end := min(at+len(dst), hi)
				if err := r.Read(ctx, u.Name, f, at, end, dst[:end-at]); err != nil {
					return 0, 0, err
				}
			}
		}
	}
	return needs, r.BytesRead(), nil
}
