package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/coordinator"
)

func checkpointCommand() *cobra.Command {
	return askCommand("checkpoint RUN", "have a run write a checkpoint after the running step", coordinator.AskCheckpoint)
}

func cancelCommand() *cobra.Command {
	return askCommand("cancel RUN", "stop a run after the running step, with a checkpoint", coordinator.AskStop)
}

func suspendCommand() *cobra.Command {
	return askCommand("suspend RUN", "have a run checkpoint after the running step, free its memory, and wait for resume", coordinator.AskSuspend)
}

func resumeCommand() *cobra.Command {
	return askCommand("resume RUN", "have a suspended run go on", coordinator.AskResume)
}

func askCommand(use, short string, do func(ctx context.Context, dir string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: args(cobra.ExactArgs(1)), RunE: func(c *cobra.Command, given []string) error {
		return do(c.Context(), given[0])
	}}
}

func resizeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "resize RUN N",
		Short: "let a run use N workers from now on: others join or leave after a running step",
		Args:  args(cobra.ExactArgs(2)),
		RunE: func(c *cobra.Command, given []string) error {
			n, err := strconv.ParseUint(given[1], 10, 16)
			if err != nil || n == 0 {
				return usage{fmt.Errorf("%q workers: want a number from 1 to 65535", given[1])}
			}
			return coordinator.AskResize(c.Context(), given[0], int(n))
		},
	}
}
