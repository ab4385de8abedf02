package pop3test_test

import (
	"testing"

	"relay/pop3/pop3test"
)

func TestStore(t *testing.T) {
	pop3test.Conform(t, func(*testing.T) pop3test.Fixture {
		s := pop3test.NewStore("example.test")
		s.AddUser("alice", "secret")
		return pop3test.Fixture{
			Backend: s, User: "alice", Secret: "secret",
			Deliver: func(_ *testing.T, body string) { s.Deliver("alice", body) },
		}
	})
}
