// Command recovery measures what it costs to lose workers, and to be ready for it. Each subcommand is one command that
// prints a table, or with -json a JSON document; every figure comes from processes that really run and really die, except
// for plan, which asks the planner alone.
//
//	make build
//	go run ./bench/recovery kill                 workers of SmolLM2-135M killed at random: seconds from SIGKILL to the next step
//	go run ./bench/recovery cost                 without a failure: what keeping replicas takes
//	go run ./bench/recovery notice               workers that are warned, in time and too late
//	tools/venv.sh && go run ./bench/recovery torchrun     beside torchrun, which starts everybody again
//	go run ./bench/recovery calm                 8 workers whose coordinator is killed: nobody may be removed
//	go run ./bench/recovery plan                 the planner, with 10,000 workers and 1,000 failures
//
// Each takes -h, and -model preset://tiny with smaller numbers shows in a minute that it works. Run them from the
// repository's root, on a machine that does nothing else. That a job survives a death at every point of a step and of a
// recovery is another table: ZEROFLEET_TABLE=full go test ./test/e2e -run KillMatrix -v
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
	"strings"
)

// subcommand is one measurement. define declares its flags, and returns what measures once they are read.
type subcommand struct {
	name, words string
	define      func(*flag.FlagSet) func(context.Context) (*table, error)
}

var subcommands = []subcommand{
	{"kill", "kill workers at random and split the time until the next step", defineKill},
	{"cost", "what replicas cost without a failure", defineCost},
	{"notice", "what a notice costs, in time and too late", defineNotice},
	{"torchrun", "a killed worker here and under torchrun", defineTorchrun},
	{"calm", "kill the coordinator and count removals", defineCalm},
	{"plan", "the planner in a simulation", definePlan},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench/recovery:", err)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var names []string
	for _, s := range subcommands {
		names = append(names, s.name)
		if len(args) == 0 || args[0] != s.name {
			continue
		}
		flags := flag.NewFlagSet("bench/recovery "+s.name, flag.ContinueOnError)
		asJSON := flags.Bool("json", false, "write JSON")
		measure := s.define(flags)
		if err := flags.Parse(args[1:]); err != nil {
			return flag.ErrHelp // it has said what is wrong
		}
		if flags.NArg() > 0 {
			return fmt.Errorf("%s: what is %q", s.name, flags.Arg(0))
		}
		t, err := measure(ctx)
		if t != nil { // also of a run that was found wanting
			t.Command = "go run ./bench/recovery " + strings.Join(args, " ")
			err = errors.Join(err, t.write(out, *asJSON))
		}
		return err
	}
	return fmt.Errorf("want a subcommand: %s", strings.Join(names, ", "))
}

// table is what a measurement has found.
type table struct {
	Command string     `json:"command"`
	Notes   []string   `json:"notes"` // what was measured, how, and what was checked
	Columns []string   `json:"columns"`
	Rows    [][]string `json:"rows"`
	Data    any        `json:"data,omitempty"` // the same unrounded
}

func (t *table) note(format string, a ...any) { t.Notes = append(t.Notes, fmt.Sprintf(format, a...)) }

func (t *table) row(cells ...string) { t.Rows = append(t.Rows, cells) }

func (t *table) write(out io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(t)
	}
	var b strings.Builder
	for _, n := range t.Notes {
		fmt.Fprintln(&b, n)
	}
	fmt.Fprintf(&b, "\n| %s |\n|%s\n", strings.Join(t.Columns, " | "), strings.Repeat("---|", len(t.Columns)))
	for _, r := range t.Rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(r, " | "))
	}
	_, err := io.WriteString(out, b.String())
	return err
}
