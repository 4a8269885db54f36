//go:build memberlist_0_2_2

package main

import (
	"fmt"

	"github.com/hashicorp/memberlist"
)

func setLabel(*memberlist.Config, string) error {
	return fmt.Errorf("memberlist 0.2.2 has no labels")
}
