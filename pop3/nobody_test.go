package pop3

import "context"

// nobody is a backend without users.
type nobody struct{}

func (nobody) Login(context.Context, *Peer, string, string) (Maildrop, error) { return nil, ErrAuth }

func (nobody) SameAccount(context.Context, string, string) bool { return false }
