"""Secrets: values that were given, generated here so that nobody sees them, or derived for who asks. Pure, given
randomness.

`value` is the stored form, `recipe` says what can be generated, `derive` what is derived, `request` is what the admin
interface is told, `versions` decides which versions stay and which one is released.
"""
