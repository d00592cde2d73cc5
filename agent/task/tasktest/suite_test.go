package tasktest_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/meshswarm/meshswarm/agent/task"
	"github.com/meshswarm/meshswarm/agent/task/tasktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEngine(t *testing.T) {
	e := tasktest.NewEngine()
	tasktest.Suite(t, tasktest.Subject{
		New:         func(*testing.T) task.Executor { return e.Executor() },
		KillSandbox: func(_ *testing.T, id string) { e.KillSandbox(id) },
		Sicken:      func(_ *testing.T, id string) { e.Sicken(id) },
		SetAway:     e.SetAway,
	})
}
