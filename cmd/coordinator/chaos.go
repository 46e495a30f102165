package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/coordinator"
)

func chaosCommand() *cobra.Command {
	return group("chaos", "disturb a run's workers on this machine, to see that it goes on",
		chaosVerb("kill", "end workers with SIGKILL, each time when the last loss has been got over", false),
		chaosVerb("stop", "stop workers with SIGSTOP for a while", true))
}

func chaosVerb(use, short string, stop bool) *cobra.Command {
	o := coordinator.Chaos{Stop: stop}
	c := &cobra.Command{Use: use + " RUN", Short: short, Args: args(cobra.ExactArgs(1))}
	f := c.Flags()
	f.IntVar(&o.Rank, "rank", -1, "whom (default: anybody)")
	f.DurationVar(&o.Every, "every", 0, "again this long after all train again (default: once)")
	f.IntVar(&o.Times, "times", 0, "how often, with --every (default: until the run ends)")
	f.Uint64Var(&o.Seed, "seed", 0, "of who is chosen (default: another one each time, which is printed)")
	if stop {
		f.DurationVar(&o.For, "for", 5*time.Second, "how long it stands still")
	}
	c.RunE = func(c *cobra.Command, given []string) error {
		if o.Seed == 0 {
			o.Seed = rand.Uint64()
		}
		fmt.Fprintf(c.OutOrStdout(), "seed %d\n", o.Seed)
		return coordinator.Disturb(c.Context(), c.OutOrStdout(), given[0], o)
	}
	return c
}
