package model

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/zerofleet/zerofleet/kernels"
)

// FingerprintCases has one case for each shape of Op that a training pass or an evaluation of b sequences of t
// tokens launches: the model's part of what a worker's fingerprint is taken of.
func (d *Decoder) FingerprintCases(b, t int) ([]kernels.Case, error) {
	ops, err := d.ops(b, t)
	if err != nil {
		return nil, fmt.Errorf("fingerprint cases: %w", err)
	}
	cases := make([]kernels.Case, len(ops))
	for i, op := range ops {
		cases[i] = kernels.Case{Name: shapeOf(op), Make: func(a *kernels.Arena) (kernels.Op, error) { return place(op, a) }}
	}
	return cases, nil
}

// ops lists one Op of each shape, on buffers without memory.
func (d *Decoder) ops(b, t int) ([]kernels.Op, error) {
	rec := &recorder{seen: map[string]bool{}}
	a := &kernels.Arena{} // one for all: a buffer's place tells it from the others
	p, err := d.NewPass(a, PassOptions{B: b, T: t, Train: true})
	if err != nil {
		return nil, err
	}
	weights, err := d.Weights(a)
	if err != nil {
		return nil, err
	}
	grads, err := leafGrads(d, a)
	if err != nil {
		return nil, err
	}
	head := len(d.units) - 1
	params := func(unit int) Params { return Params{Unit: weights[unit], Embedding: weights[0]} }
	p.next = 0
	for unit := range head {
		if err := p.Forward(rec, unit, params(unit)); err != nil {
			return nil, err
		}
	}
	// The head's products depend on how many rows count: whole chunks, a first and a later one, and each remainder.
	prog := &program{s: rec}
	rows := p.Rows()
	for n := 0; n <= roundRows(rows); n += rowGranule {
		if n > p.head.chunk && n+p.head.chunk <= roundRows(rows) {
			continue // its products have shapes that another number of rows has too
		}
		run := p.headRun(prog, params(head), n)
		run.forward()
		run.backward(Grads{Unit: grads[head], Embedding: grads[0]}, p.dx, 1)
	}
	if prog.err != nil {
		return nil, prog.err
	}
	p.back = head - 1
	for unit := head - 1; unit >= 0; unit-- {
		if err := p.Backward(rec, unit, params(unit), Grads{Unit: grads[unit]}); err != nil {
			return nil, err
		}
	}
	return rec.ops, nil
}

func leafGrads(d *Decoder, a *kernels.Arena) ([]kernels.Buffer, error) {
	g := &grabber{a: a}
	grads := make([]kernels.Buffer, len(d.units))
	for i, u := range d.units {
		grads[i] = g.take(kernels.LeafGrads, kernels.F32, u.Elems)
	}
	return grads, g.err
}

// recorder is a Stream that keeps the first Op of each shape and computes nothing.
type recorder struct {
	ops  []kernels.Op
	seen map[string]bool
}

var errRecording = errors.New("a recorder computes nothing")

func (r *recorder) Launch(op kernels.Op) error {
	if err := op.Validate(); err != nil {
		return err
	}
	if k := shapeOf(op); !r.seen[k] {
		r.seen[k] = true
		r.ops = append(r.ops, op)
	}
	return nil
}

func (r *recorder) Upload(kernels.Buffer, []byte) error   { return errRecording }
func (r *recorder) Download([]byte, kernels.Buffer) error { return errRecording }
func (r *recorder) Copy(_, _ kernels.Buffer) error        { return errRecording }
func (r *recorder) Record() (kernels.Event, error)        { return nil, errRecording }
func (r *recorder) Wait(kernels.Event) error              { return errRecording }
func (r *recorder) Sync(context.Context) error            { return nil }
func (r *recorder) Close() error                          { return nil }

// shapeOf is an Op without the places of its buffers: their types and lengths, and all other fields.
func shapeOf(op kernels.Op) string {
	var b strings.Builder
	b.WriteString(op.Name())
	v := reflect.ValueOf(op)
	for i := range v.NumField() {
		name, value := v.Type().Field(i).Name, v.Field(i).Interface()
		buf, ok := value.(kernels.Buffer)
		switch {
		case !ok:
			fmt.Fprintf(&b, " %s=%v", name, value)
		case !buf.IsZero():
			fmt.Fprintf(&b, " %s=%s[%d]", name, buf.Type(), buf.Len())
		}
	}
	return b.String()
}

// place is op on buffers from a: one for each that op has, and still the same one where op has it twice.
func place(op kernels.Op, a *kernels.Arena) (kernels.Op, error) {
	v := reflect.New(reflect.TypeOf(op)).Elem()
	v.Set(reflect.ValueOf(op))
	placed := map[kernels.Buffer]kernels.Buffer{}
	for i := range v.NumField() {
		old, ok := v.Field(i).Interface().(kernels.Buffer)
		if !ok || old.IsZero() {
			continue
		}
		buf, ok := placed[old]
		if !ok {
			var err error
			if buf, err = a.Take(kernels.Workspace, kernels.Device, old.Type(), old.Len()); err != nil {
				return nil, err
			}
			placed[old] = buf
		}
		v.Field(i).Set(reflect.ValueOf(buf))
	}
	return v.Interface().(kernels.Op), nil
}
