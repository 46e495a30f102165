package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/zerofleet/zerofleet/kernels"
)

// profile adds up what each kernel takes. It is right for a backend whose Launch returns when the
// kernel is done, which the CPU's does.
type profile struct {
	since time.Time
	lines map[string]*line
}

type line struct {
	name  string
	calls int
	spent time.Duration
	flops float64
	bytes float64
}

func newProfile() *profile { return &profile{lines: map[string]*line{}} }

func (p *profile) reset() { p.since, p.lines = time.Now(), map[string]*line{} }

func (p *profile) add(op kernels.Op, d time.Duration) {
	name, flops := op.Name(), 0.0
	if m, ok := op.(kernels.MatMul); ok {
		kind := map[[2]bool]string{{false, false}: "AB", {false, true}: "AB'", {true, false}: "A'B", {true, true}: "A'B'"}
		name = fmt.Sprintf("matmul %s %dx%dx%d", kind[[2]bool{m.TransA, m.TransB}], m.M, m.N, m.K)
		flops = 2 * float64(m.M) * float64(m.N) * float64(m.K)
	}
	l := p.lines[name]
	if l == nil {
		l = &line{name: name}
		p.lines[name] = l
	}
	l.calls++
	l.spent += d
	l.flops += flops
	for _, a := range op.Args() {
		l.bytes += float64(a.Buf.Bytes())
	}
}

// print writes the kernels of steps, the slowest first.
func (p *profile) print(w io.Writer, steps int) {
	var lines []*line
	var sum time.Duration
	for _, l := range p.lines {
		lines = append(lines, l)
		sum += l.spent
	}
	slices.SortFunc(lines, func(a, b *line) int { return cmp.Compare(b.spent, a.spent) })
	fmt.Fprintf(w, "  %-32s %6s %10s %6s %8s %8s\n", "kernel", "calls", "ms a step", "share", "GFLOP/s", "GB/s")
	for _, l := range lines {
		s := l.spent.Seconds()
		fmt.Fprintf(w, "  %-32s %6d %10.2f %5.1f%% %8.1f %8.1f\n", l.name, l.calls/steps, 1e3*s/float64(steps),
			100*s/sum.Seconds(), l.flops/s/1e9, l.bytes/s/1e9)
	}
	total := time.Since(p.since)
	fmt.Fprintf(w, "  %-32s %6s %10.2f of %.2f\n", "all kernels", "", 1e3*sum.Seconds()/float64(steps), 1e3*total.Seconds()/float64(steps))
}

// profiled is a Backend whose streams tell a profile.
type profiled struct {
	kernels.Backend
	p *profile
}

func (b profiled) NewStream(name string) (kernels.Stream, error) {
	s, err := b.Backend.NewStream(name)
	return profiledStream{s, b.p}, err
}

type profiledStream struct {
	kernels.Stream
	p *profile
}

func (s profiledStream) Launch(op kernels.Op) error {
	start := time.Now()
	err := s.Stream.Launch(op)
	s.p.add(op, time.Since(start))
	return err
}
