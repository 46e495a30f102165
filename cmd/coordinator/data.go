package main

import (
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/zerofleet/zerofleet/coordinator"
)

func dataCommand() *cobra.Command {
	return group("data", "look at what a job trains on", dataShow())
}

func dataShow() *cobra.Command {
	var n int
	c := &cobra.Command{
		Use:   "show JOB.yaml",
		Short: "print records as the model sees them, the tokens that count marked",
		Args:  args(cobra.ExactArgs(1)),
	}
	sets := setFlag(c)
	c.Flags().IntVarP(&n, "records", "n", 3, "how many records")
	c.RunE = func(c *cobra.Command, given []string) error {
		f, isFile := c.OutOrStdout().(*os.File)
		colour := isFile && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""
		return coordinator.ShowData(c.Context(), c.OutOrStdout(), given[0], *sets, n, colour)
	}
	return c
}
