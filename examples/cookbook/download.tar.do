redo-ifchange download.made
"${RDVM:-rdvm}" pack --format tar -o "$3" download
