package limits

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"relay/node/admin"
)

// Tries is how often a change is made anew where somebody else changes the same at that time.
const Tries = 20

// ChangeSettings reads the settings, changes them and writes them back. If somebody else has changed them in
// between, it does all of this again. It returns what was written. An error of change ends it.
func ChangeSettings(ctx context.Context, client *admin.Client, by func() admin.By,
	change func(*admin.Settings) error) (*admin.Settings, error) {
	for try := 1; ; try++ {
		s, err := client.Settings(ctx)
		if err != nil {
			return nil, err
		}
		if err := change(s); err != nil {
			return nil, err
		}
		err = client.SetSettings(ctx, by(), *s)
		switch {
		case !errors.Is(err, admin.ErrConflict):
			return s, err
		case try == Tries:
			return nil, fmt.Errorf("somebody else changes settings at the same time, nothing was changed: try again: %w", err)
		}
		if err := pause(ctx, try); err != nil {
			return nil, err
		}
	}
}

// pause waits a little, so that those who change the same thing do not meet again.
func pause(ctx context.Context, try int) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(rand.N(time.Duration(try) * 10 * time.Millisecond)):
		return nil
	}
}
