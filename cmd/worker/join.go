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

func joinCommand() *cobra.Command {
	o := worker.Options{Joins: true}
	var coordinator, token string
	c := &cobra.Command{
		Use:   "join --coordinator HOST:PORT --token-file FILE",
		Short: "join a job that runs on another machine, and train until it ends",
		Long: "Join a job whose coordinator was started with launch --listen, which prints the line to run here and writes the token\n" +
			"file. The model comes from its source, and must be what the job was submitted with, as its data must. SIGTERM makes this\n" +
			"worker hand over its share and leave; a second one ends it.",
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if token == "" {
				return usage(errors.New("worker join needs --token-file, and --coordinator where the file's address is not the one to use"))
			}
			invitation, err := membership.ReadInvitation(token)
			if err != nil {
				return usage(err)
			}
			at, err := invitation.Endpoint(coordinator)
			if err != nil {
				return usage(err)
			}
			o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
			term := make(chan os.Signal, 1)
			signal.Notify(term, syscall.SIGTERM, os.Interrupt) // this terminal's Ctrl-C is this worker's
			defer signal.Stop(term)
			o.Term = term
			if err := worker.Greet(c.Context(), at, o.Log); err != nil {
				return err
			}
			o.Locate = membership.Fixed(at)
			return worker.Run(c.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&coordinator, "coordinator", "", "HOST:PORT of the job's coordinator (default: as the token file says)")
	f.StringVar(&token, "token-file", "", "the join.token of the run folder")
	f.StringVar(&o.ID, "id", "", "this worker's id in the job (default: the coordinator chooses one)")
	f.StringVar(&o.Advertise, "advertise", "127.0.0.1", "the address of this machine that other workers reach it at")
	return c
}
