package local_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/grouptest"
	"github.com/zerofleet/zerofleet/collective/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestGroup(t *testing.T) {
	grouptest.Run(t, func(_ testing.TB, world int) []collective.Group { return local.New(world) })
}
