// Command collectives measures the collectives of this project beside Gloo's and Open MPI's, and beside what memory and
// sockets allow, in one interleaved run: one round of each contender in turn, because a virtual machine's speed swings
// from minute to minute. Every rank is a process of its own.
//
//	tools/venv.sh; tools/openmpi.sh              once: torch with Gloo; Open MPI and iperf3
//	go run ./bench/collectives                   2 and 4 ranks on this host
//	go run ./bench/collectives -places veth,veth-1g -svg collectives.svg -json collectives.json
//
// What is missing is left out, and the notes say so. README.md in bench/ says what the figures mean.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/zerofleet/zerofleet/bench/machine"
	"github.com/zerofleet/zerofleet/bench/place"
)

// rankCommand is the first argument of a process that this program starts of itself.
const rankCommand = "rank"

func main() {
	if len(os.Args) > 1 && os.Args[1] == rankCommand {
		if err := runRank(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench/collectives rank:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench/collectives:", err)
		}
		os.Exit(1)
	}
}

// options say what is measured.
type options struct {
	operations, contenders []string
	sizes                  []int64
	ranks                  []int
	places                 []string
	rounds                 int
	least, patience        time.Duration
	python                 string
	svg, json              string
}

// separated is a flag of words between commas.
func separated[T any](flags *flag.FlagSet, to *[]T, name, standard, usage string, parse func(string) (T, error)) {
	set := func(s string) error {
		var list []T
		for word := range strings.SplitSeq(s, ",") {
			v, err := parse(strings.TrimSpace(word))
			if err != nil {
				return err
			}
			list = append(list, v)
		}
		*to = list
		return nil
	}
	if err := set(standard); err != nil {
		panic(err) // ours
	}
	flags.Func(name, fmt.Sprintf("%s (default %s)", usage, standard), set)
}

// one takes a word that must be among others.
func one(of ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		if !slices.Contains(of, s) {
			return "", fmt.Errorf("%q: want %s", s, strings.Join(of, ", "))
		}
		return s, nil
	}
}

func parseRanks(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 2 || n > 64 {
		return 0, fmt.Errorf("%q ranks: want 2 to 64", s)
	}
	return n, nil
}

func parseOptions(args []string, errs io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("bench/collectives", flag.ContinueOnError)
	flags.SetOutput(errs)
	names := contenderNames()
	separated(flags, &o.operations, "ops", strings.Join(operations, ","), "what is measured", one(operations...))
	separated(flags, &o.contenders, "contenders", strings.Join(names, ","), "who takes part", one(names...))
	separated(flags, &o.sizes, "sizes", "4KiB,64KiB,1MiB,16MiB,64MiB", "bytes per rank, n: the full buffer has ranks*n; 4KiB to 256MiB", parseSize)
	separated(flags, &o.ranks, "ranks", "2,4", "processes", parseRanks)
	separated(flags, &o.places, "places", place.Host, "where: host (127.0.0.1), veth (two network namespaces), veth-1g (the same at 1 Gbit/s with 1 ms each way)",
		one(place.Host, place.Veth, place.Slow))
	flags.IntVar(&o.rounds, "rounds", 5, "rounds, each with every contender in turn")
	flags.DurationVar(&o.least, "for", 200*time.Millisecond, "how long a contender repeats an operation in a round; at least once")
	flags.DurationVar(&o.patience, "patience", 2*time.Minute, "bounds every wait for a contender")
	flags.StringVar(&o.python, "python", ".venv/bin/python", "a Python with torch, which tools/venv.sh installs; empty: without Gloo")
	flags.StringVar(&o.svg, "svg", "", "a file for a plot")
	flags.StringVar(&o.json, "json", "", "a file for all figures, unrounded")
	if err := flags.Parse(args); err != nil {
		return o, flag.ErrHelp // it has said what is wrong
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("what is %q", flags.Arg(0))
	}
	if o.rounds < 1 {
		return o, fmt.Errorf("%d rounds: want at least 1", o.rounds)
	}
	return o, nil
}

// report is what was measured.
type report struct {
	Command string   `json:"command"`
	Notes   []string `json:"notes"`
	Cells   []*cell  `json:"cells"`
}

func (r *report) note(format string, a ...any) {
	if n := fmt.Sprintf(format, a...); !slices.Contains(r.Notes, n) {
		r.Notes = append(r.Notes, n)
	}
}

func run(ctx context.Context, args []string, out, errs io.Writer) error {
	o, err := parseOptions(args, errs)
	if err != nil {
		return err
	}
	r := &report{Command: strings.TrimSpace("go run ./bench/collectives " + strings.Join(args, " "))}
	r.note("%s", machine.Line())
	definitions(r, o)
	err = measureAll(ctx, o, r, errs)
	// Also of a run that was ended or found wanting: what is there was measured.
	err = errors.Join(err, writeTables(out, r))
	if o.json != "" {
		b, e := json.MarshalIndent(r, "", "  ")
		if e == nil {
			e = os.WriteFile(o.json, append(b, '\n'), 0o644)
		}
		err = errors.Join(err, e)
	}
	if o.svg != "" {
		err = errors.Join(err, os.WriteFile(o.svg, plot(r.Cells), 0o644))
	}
	return err
}

// measureAll measures place by place, and returns when nothing of it runs any more.
func measureAll(ctx context.Context, o options, r *report, progress io.Writer) error {
	dir, err := os.MkdirTemp("", "bench-collectives-*")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	var present []*contender
	for _, c := range contenders(o, dir) {
		if !slices.Contains(o.contenders, c.name) {
			continue
		}
		if c.prepare != nil {
			if err := c.prepare(ctx); err != nil {
				r.note("Left out: %s: %v.", c.name, err)
				continue
			}
		}
		present = append(present, c)
	}
	for _, name := range o.places {
		if err := measurePlace(ctx, o, name, present, r, progress); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func measurePlace(ctx context.Context, o options, name string, present []*contender, r *report, progress io.Writer) (err error) {
	p, err := place.New(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	var wire []string // a stream has two ends, whatever the ranks
	var among []string
	for _, op := range o.operations {
		if op == opStream {
			wire = append(wire, op)
		} else {
			among = append(among, op)
		}
	}
	for _, ranks := range o.ranks {
		if len(among) == 0 {
			break
		}
		if err := measureRanks(ctx, o, p, ranks, among, present, r, progress); err != nil {
			return fmt.Errorf("%d ranks: %w", ranks, err)
		}
	}
	if len(wire) > 0 {
		return measureRanks(ctx, o, p, 2, wire, present, r, progress)
	}
	return nil
}

// turn is a contender that is open.
type turn struct {
	*contender
	session session
	cell    *cell // of the operation and size at hand
}

// measureRanks opens the contenders at a place, and measures operation by operation and size by size, all in turn.
func measureRanks(ctx context.Context, o options, p *place.Place, ranks int, ops []string, present []*contender, r *report, progress io.Writer) (err error) {
	var turns []*turn
	defer func() {
		for _, t := range turns {
			err = errors.Join(err, t.session.close())
		}
	}()
	for _, c := range present {
		if !slices.ContainsFunc(ops, c.does) {
			continue
		}
		if c.only != nil {
			if why := c.only(p); why != "" {
				r.note("%s is not measured at %s: %s.", c.name, p.Name, why)
				continue
			}
		}
		opening, cancel := context.WithTimeout(ctx, o.patience)
		s, err := c.open(opening, p, ranks)
		cancel()
		if err != nil {
			return fmt.Errorf("open %s: %w", c.name, err)
		}
		turns = append(turns, &turn{contender: c, session: s})
	}
	for _, op := range ops {
		for _, size := range o.sizes {
			var now []*turn
			for _, t := range turns {
				if t.does(op) && size >= t.from {
					t.cell = &cell{Place: p.Name, Ranks: ranks, Operation: op, Bytes: size, Contender: t.name}
					now = append(now, t)
				}
			}
			if err := measureSize(ctx, o, now, r); err != nil {
				return fmt.Errorf("%s of %s: %w", op, sizeName(size), err)
			}
			fmt.Fprintf(progress, "%s %s, %d ranks, %s of %s\n", time.Now().Format(time.TimeOnly), p.Name, ranks, op, sizeName(size))
		}
	}
	return nil
}

// measureSize measures one operation at one size. The first round checks the data, and counts how often is enough.
func measureSize(ctx context.Context, o options, turns []*turn, r *report) error {
	ask := func(t *turn, check bool) (float64, error) {
		ctx, cancel := context.WithTimeout(ctx, o.patience)
		defer cancel()
		s, err := t.session.measure(ctx, order{t.cell.Operation, t.cell.Bytes, max(t.cell.Times, 1), check})
		if err != nil {
			return 0, fmt.Errorf("%s: %w", t.name, err)
		}
		return s, nil
	}
	for _, t := range turns {
		s, err := ask(t, true)
		if err != nil {
			return err
		}
		t.cell.Times = timesFor(s, o.least)
	}
	for _, t := range turns {
		r.Cells = append(r.Cells, t.cell)
	}
	for range o.rounds {
		for _, t := range turns {
			s, err := ask(t, false)
			if err != nil {
				return err
			}
			t.cell.Seconds = append(t.cell.Seconds, s)
		}
	}
	return nil
}
