package main

import (
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/worker"
)

func runCommand() *cobra.Command {
	o := worker.Options{}
	var control string
	c := &cobra.Command{
		Use:   "run",
		Short: "join a job and train until it ends",
		Args:  noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.ID == "" || control == "" {
				return usage(errors.New("worker run needs --id and --control"))
			}
			o.Locate = membership.ControlFile(control)
			o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("worker", o.ID)
			// A terminal's Ctrl-C is the coordinator's to handle. A first SIGTERM says that this machine goes, a second ends this
			// process.
			term := make(chan os.Signal, 1)
			signal.Notify(term, syscall.SIGTERM)
			defer signal.Stop(term)
			o.Term = term
			return worker.Run(c.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.ID, "id", "", "this worker's id in the job")
	f.StringVar(&control, "control", "", "the run folder's control.json")
	f.StringVar(&o.Advertise, "advertise", "127.0.0.1", "the address that other workers reach this one at")
	return c
}
