//go:build !memberlist_0_2_2

package main

import "github.com/hashicorp/memberlist"

func setLabel(conf *memberlist.Config, label string) error {
	conf.Label = label
	return nil
}
