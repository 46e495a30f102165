package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/zerofleet/zerofleet/coordinator"
	"github.com/zerofleet/zerofleet/coordinator/live"
	"github.com/zerofleet/zerofleet/job"
)

func launchCommand() *cobra.Command {
	o := coordinator.Options{}
	var workers, local int
	var lines bool
	var worker string
	c := &cobra.Command{
		Use:   "launch JOB.yaml",
		Short: "run a job on this machine, from the job file to its model",
		Long: "Run a job on this machine: an etcd, the coordinator and one process per worker, until the model is written.\n" +
			"Ctrl-C checkpoints after the running step, stops everything and prints the line that resumes; a second one stops at once.\n" +
			"On a folder whose coordinator was killed and whose workers still run, it goes on with them.",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			o.JobFile = given[0]
			if workers != 0 {
				o.Set = append(o.Set, fmt.Sprintf("workers.max=%d", workers))
			}
			if c.Flags().Changed("local-workers") {
				if local < 0 {
					return usage{fmt.Errorf("--local-workers %d: want 0 or more", local)}
				}
				o.Local = &local
			}
			if worker != "" {
				o.Worker = strings.Fields(worker)
			}
			view, text := launchView(c.OutOrStdout(), o, lines)
			ending := &lastWord{View: view}
			o.View = ending
			interrupts := make(chan os.Signal, 2)
			signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
			defer signal.Stop(interrupts)
			o.Interrupts = interrupts
			exit, err := coordinator.Launch(c.Context(), o)
			if !text && ending.resume != "" && err == nil { // a picture may have cut it off
				fmt.Fprintln(c.OutOrStdout(), ending.resume)
			}
			if exit != coordinator.ExitDone || err != nil {
				return exitStatus{exit, err}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&o.Resume, "resume", "", "go on from a run folder's newest checkpoint, or from a checkpoint")
	f.Uint64Var(&o.StopAt, "stop-at", 0, "stop with a checkpoint after this step; not part of the job")
	f.StringVar(&o.Listen, "listen", "", "HOST:PORT where workers of other machines join, with the line that is printed (default: nobody does)")
	f.IntVar(&local, "local-workers", 0, "how many workers to start on this machine; the others join (default: all)")
	f.IntVar(&workers, "workers", 0, "short for --set workers.max=N")
	f.BoolVar(&lines, "json", false, "print events and steps as JSON lines")
	f.StringVar(&worker, "worker", "", "the command that runs a worker (default: the program worker beside this one, or on PATH)")
	f.StringArrayVar(&o.Set, "set", nil, "a.b=value: lay a value over the job file; may be given several times")
	return c
}

// launchView shows the run as a live picture in a terminal, and as lines elsewhere. text says that all of it stays.
func launchView(out io.Writer, o coordinator.Options, lines bool) (v coordinator.View, text bool) {
	if lines {
		return coordinator.NewJSONLines(out), true
	}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return live.New(out), false
	}
	every := 1
	if j, err := job.Load(o.JobFile, o.Set); err == nil { // Launch reports what is wrong with it
		every = j.Log.EverySteps
	}
	return coordinator.NewPlain(out, every), true
}

// lastWord remembers the line that resumes.
type lastWord struct {
	coordinator.View
	resume string
}

func (l *lastWord) Event(e coordinator.Event) {
	if r := e.Fields["resume"]; r != "" {
		l.resume = r
	}
	l.View.Event(e)
}
