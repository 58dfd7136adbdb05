#!/bin/sh
echo "$(dpkg-query -f '.\n' -W | wc -l) packages are installed."
