package model

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/zerofleet/zerofleet/kernels"
)

// Input is one micro-batch: B sequences of T tokens, row by row, each slice [B*T].
type Input struct {
	Tokens []int32 // in [0,V)
	// Labels are the next tokens, shifted already, or -1 where the loss does not count.
	Labels    []int32
	Positions []int32 // in [0,T): they restart with each document
	// DocStart is the index in its sequence of the first token of a token's document.
	DocStart []int32
	// Scale multiplies the sum of the losses before the gradient is taken.
	Scale float32
}

// check names the first value that is out of its range, before a kernel meets it.
func (in Input) check(rows, t, vocab int) error {
	for _, a := range []struct {
		name   string
		values []int32
	}{{"tokens", in.Tokens}, {"labels", in.Labels}, {"positions", in.Positions}, {"document starts", in.DocStart}} {
		if len(a.values) != rows {
			return fmt.Errorf("%d %s, want %d", len(a.values), a.name, rows)
		}
	}
	for i := range rows {
		switch {
		case in.Tokens[i] < 0 || int(in.Tokens[i]) >= vocab:
			return fmt.Errorf("token %d at row %d: not in the vocabulary of %d", in.Tokens[i], i, vocab)
		case in.Labels[i] < -1 || int(in.Labels[i]) >= vocab:
			return fmt.Errorf("label %d at row %d: want -1 or a token of the vocabulary of %d", in.Labels[i], i, vocab)
		case in.Positions[i] < 0 || int(in.Positions[i]) >= t:
			return fmt.Errorf("position %d at row %d: want 0 to %d", in.Positions[i], i, t-1)
		case in.DocStart[i] < 0 || int(in.DocStart[i]) > i%t:
			return fmt.Errorf("document start %d at row %d: want 0 to %d", in.DocStart[i], i, i%t)
		}
	}
	return nil
}

// Load begins a micro-batch. in has been read when it returns.
func (p *Pass) Load(ctx context.Context, s kernels.Stream, in Input) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	rows := p.Rows()
	if err := in.check(rows, p.o.T, p.d.cfg.Vocab); err != nil {
		return fmt.Errorf("load micro-batch: %w", err)
	}
	p.count(in.Labels)
	labels := make([]int32, len(p.counted))
	back := make([]int32, rows)
	for i := range back {
		back[i] = int32(len(p.counted))
	}
	for i, row := range p.counted {
		if labels[i] = -1; i < p.nCounted {
			labels[i], back[row] = in.Labels[row], int32(i)
		}
	}
	uploads := []struct {
		dst kernels.Buffer
		src []int32
	}{
		{p.tokens, in.Tokens}, {p.att.pos, in.Positions}, {p.att.docStart, in.DocStart},
		{p.head.rows.Slice(0, len(p.counted)), p.counted}, {p.head.labels.Slice(0, len(p.counted)), labels},
	}
	for _, u := range uploads {
		if err := upload(s, u.dst, u.src); err != nil {
			return fmt.Errorf("load micro-batch: %w", err)
		}
	}
	if p.o.Train {
		if err := upload(s, p.head.back, back); err != nil {
			return fmt.Errorf("load micro-batch: %w", err)
		}
	}
	p.scale = in.Scale
	p.next, p.back, p.holds, p.losses = 0, -1, -1, false
	return nil
}

// count finds the rows that count and pads them to the granule with row 0, whose label will be -1.
func (p *Pass) count(labels []int32) {
	p.counted = p.counted[:0]
	for row, l := range labels {
		if l >= 0 {
			p.counted = append(p.counted, int32(row))
		}
	}
	p.nCounted = len(p.counted)
	for len(p.counted)%rowGranule != 0 {
		p.counted = append(p.counted, 0)
	}
}

func upload(s kernels.Stream, dst kernels.Buffer, src []int32) error {
	if len(src) == 0 {
		return nil
	}
	b := make([]byte, 0, 4*len(src))
	for _, v := range src {
		b = binary.NativeEndian.AppendUint32(b, uint32(v))
	}
	return s.Upload(dst, b)
}

func f32Bytes(x []float32) []byte {
	b := make([]byte, 0, 4*len(x))
	for _, v := range x {
		b = binary.NativeEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// downloadF32 waits for the stream and returns src's elements, f32.
func downloadF32(ctx context.Context, s kernels.Stream, src kernels.Buffer) ([]float32, error) {
	b := make([]byte, src.Bytes())
	if err := s.Download(b, src); err != nil {
		return nil, err
	}
	if err := s.Sync(ctx); err != nil {
		return nil, err
	}
	x := make([]float32, src.Len())
	for i := range x {
		x[i] = math.Float32frombits(binary.NativeEndian.Uint32(b[4*i:]))
	}
	return x, nil
}
