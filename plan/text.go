package plan

import (
	"fmt"
	"strings"
	"time"
)

// Size is a number of bytes for a person, in binary units.
func Size(n int64) string {
	switch {
	case n >= 1<<40:
		return fmt.Sprintf("%.2f TiB", float64(n)/(1<<40))
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Text is the plan as a table.
func (p *Plan) Text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	chosen := func(yes bool) string {
		if yes {
			return " (chosen)"
		}
		return ""
	}
	keep := "off"
	if p.Recompute {
		keep = "on"
	}
	line("%s: %.1f M parameters, %s, %s, ZeRO stage %d%s, gradient checkpointing %s%s", p.Job, float64(p.Params)/1e6, p.Precision,
		count(p.World, "worker"), p.Stage, chosen(p.StageChosen), keep, chosen(p.RecomputeChosen))

	line("\nmemory of a worker")
	for _, r := range p.rows() {
		if r.bytes != 0 {
			line("  %-22s %12s  %s", r.name, Size(r.bytes), r.note)
		}
	}
	line("  %-22s %12s", "all", Size(p.Worker.Total()))

	if p.World > 1 {
		line("\non the wire, sent by a worker in a step")
		for _, r := range []struct {
			name  string
			bytes int64
		}{{"parameters", p.Wire.Gathers}, {"gradients", p.Wire.Gradients}, {p.updateName(), p.Wire.Update}, {"gradient to the buddy", p.Wire.Replica}, {"all", p.Wire.Total()}} {
			if r.bytes != 0 {
				line("  %-22s %12s", r.name, Size(r.bytes))
			}
		}
	}

	e := p.Estimate
	line("\ntime, roughly (%s, %.0f GB/s between workers)", e.Assumption, wireBytesPerSecond/1e9)
	line("  %-22s %12s  %.1f TFLOP in all; compute %s, wire %s, update %s", "a step", short(e.StepTime), e.StepFLOPs/1e12, short(e.Compute),
		short(e.Wire), short(e.Update))
	line("  %-22s %12.0f", "tokens a second", e.TokensPerSecond)

	line("\nother ways")
	for _, o := range p.Others {
		fits := "fits"
		if !o.Fits {
			fits = "does not fit"
		}
		name := fmt.Sprintf("stage %d", o.Stage)
		if o.Recompute != p.Recompute {
			name += ", checkpointing"
		}
		line("  %-22s %12s  a worker, %s on the wire, %s", name, Size(o.WorkerBytes), Size(o.WireBytes), fits)
	}
	if err := p.Err(); err != nil {
		line("\n%v", err)
	} else {
		line("\nfits: %s", p.Why)
	}
	return b.String()
}

func (p *Plan) updateName() string {
	if p.Stage == 0 {
		return "reduced gradient"
	}
	return "updated parameters"
}

type row struct {
	name  string
	bytes int64
	note  string
}

func (p *Plan) rows() []row {
	w := p.Worker
	part := func(cut bool) string {
		if cut && p.World > 1 {
			return fmt.Sprintf("1/%d", p.World)
		}
		return "all"
	}
	masters := "f32 master, m and v"
	if p.shape.mastersAlias {
		masters = "f32 m and v; the parameters are the masters"
	}
	return []row{
		{"parameters", w.Parameters, part(p.Stage == 3) + " of them"},
		{"gradients", w.Gradients, part(p.Stage > 0) + ", f32 sums"},
		{"optimizer", w.Optimizer, part(p.Stage > 0) + ", " + masters},
		{"gathered parameters", w.Gathered, "the embedding, the head and two blocks"},
		{"leaf gradients", w.LeafGradients, "of the embedding, the head and two blocks"},
		{"activations", w.Activations, fmt.Sprintf("%d x %d tokens", p.shape.batch, p.shape.t)},
		{"workspace", w.Workspace, "scratch and a chunk of the logits"},
		{"staging", w.Staging, "the largest unit in the wire's format"},
		{"replica", w.Replica, "another worker's f32 master, m, v and gradient"},
		{"receive buffers", w.Receive, "at most"},
		{"checkpoint's copy", w.Checkpoint, "while one is written"},
		{"program", w.Process, "assumed"},
	}
}

func short(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return fmt.Sprintf("%.0fms", float64(d)/float64(time.Millisecond))
}
