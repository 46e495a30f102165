package kerneltest

import (
	"math"

	"github.com/zerofleet/zerofleet/kernels"
)

// A row is copied, or added in the order of the rows: the comparison is exact.
var idCases = []Case{
	{"embedding", runEmbedding},
	{"embedding refuses ids", runEmbeddingRefuses},
}

// someIDs are rows in [0,v), the first and the last of them included, and many of them the same one.
//
//go:norace
func someIDs(r *Rig, rows, v int) []int32 {
	ids := make([]int32, rows)
	for i := range ids {
		switch i % 4 {
		case 0:
			ids[i] = int32(v - 1)
		case 1:
			ids[i] = 0
		default:
			ids[i] = int32(r.IntN(v))
		}
	}
	return ids
}

func runEmbedding(r *Rig) {
	for _, s := range [][3]int{{1, 1, 1}, {5, 3, 7}, {40, 9, 33}, {33, 50, 64}, {300, 20, 65}, {7, 5, 576}, {70, 11, 1031}} {
		for _, dt := range acts {
			oneEmbedding(r, dt, s[0], s[1], s[2])
		}
	}
}

func oneEmbedding(r *Rig, dt kernels.DType, rows, v, d int) {
	r.Begin("%d rows of %dx%d %s", rows, v, d, dt)
	ids := someIDs(r, rows, v)
	o := kernels.Embedding{Rows: rows, V: v, D: d, IDs: r.IDs(ids), Y: r.Out(dt, rows*d)}
	b := kernels.EmbeddingBackward{Rows: rows, V: v, D: d, IDs: o.IDs}
	var table, dtable, dy []float64
	o.Table, table = r.In(dt, mixed(r, v*d, 0))
	b.DTable, dtable = r.In(kernels.F32, mixed(r, v*d, 1))
	b.DY, dy = r.In(dt, r.Normal(rows*d, 1))
	r.Launch(o)
	r.Launch(b)
	want := make([]float64, rows*d)
	for row, id := range ids {
		copy(want[row*d:(row+1)*d], table[int(id)*d:])
	}
	r.Exactly("Y", o.Y, want)
	addRows(dtable, dy, ids, d)
	r.Exactly("DTable", b.DTable, dtable)
}

//go:norace
func addRows(dtable, dy []float64, ids []int32, d int) {
	for row, id := range ids {
		for c := range d {
			at := int(id)*d + c
			dtable[at] = float64(float32(dtable[at] + dy[row*d+c]))
		}
	}
}

func runEmbeddingRefuses(r *Rig) {
	const rows, v, d = 30, 9, 20
	for _, bad := range []int32{-1, v, math.MaxInt32, math.MinInt32} {
		r.Begin("id %d", bad)
		ids := someIDs(r, rows, v)
		ids[rows-1] = bad
		o := kernels.Embedding{Rows: rows, V: v, D: d, IDs: r.IDs(ids), Y: r.Out(kernels.F32, rows*d)}
		b := kernels.EmbeddingBackward{Rows: rows, V: v, D: d, IDs: o.IDs}
		o.Table, _ = r.In(kernels.F32, r.Normal(v*d, 1))
		b.DTable, _ = r.In(kernels.F32, r.Normal(v*d, 1))
		b.DY, _ = r.In(kernels.F32, r.Normal(rows*d, 1))
		r.Fails(o)
		r.Fails(b)
	}
}
